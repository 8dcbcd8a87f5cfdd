#!/usr/bin/env bash
# Runs every fuzz target of the tree for the time given, one after another, and all of them whatever one finds. A crash leaves its input in the package's testdata/fuzz.
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

failed=()
while read -r file target; do
  package=./$(dirname "$file")
  echo "fuzz: $package $target for $time"
  fuzz "$package" "$target" || failed+=("$package $target")
done < <(grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' internal test | sort | sed 's/:func / /')
((${#failed[@]} == 0)) || { printf 'fuzz: failed: %s\n' "${failed[@]}" >&2; exit 1; }
