#!/usr/bin/env bash
# Runs every fuzz target of the tree for the time given, one after another. A crash leaves its input in the package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Go's fuzzer sometimes takes its own deadline for a failure (golang/go#75804). A real one always writes its input.
# Minimizing what is only interesting gets a second: by default it gets a minute, which may be all there is.
fuzz() {
  go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 1s "$1" 2>&1 | tee "$log" && return
  if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
    echo "fuzz: no failing input, only the fuzzer's own deadline: passed"
    return
  fi
  return 1
}

grep -rlE '^func Fuzz' --include='*_test.go' internal | sort | while read -r file; do
  package=./$(dirname "$file")
  grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | sed 's/^func //' | while read -r target; do
    echo "fuzz: $package $target for $time"
    fuzz "$package" "$target"
  done
done
