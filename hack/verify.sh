#!/usr/bin/env bash
# What must hold of the sources, beside the linters. Says what it checks and, where something is off, what to run.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN="${GOTOOLCHAIN:-local}"

lint=$PWD/bin/golangci-lint
step() { echo "verify: $*"; }
fail() { echo "verify: $*" >&2; exit 1; }

generated() { git ls-files -co --exclude-standard -- api config/crd/bases | sort | xargs -r sha256sum; }

step "go vet"
go vet ./...

# ./... ends where another module begins. Those without packages pin tools, which were built from them to get here.
for module in $(git ls-files -co --exclude-standard -- '*/go.mod' | xargs -rn1 dirname); do
  packages=$(go -C "$module" list ./... 2> /dev/null)
  [ -n "$packages" ] || continue
  step "$module, a module of its own: vet, golangci-lint, tests, tidy"
  go -C "$module" vet ./...
  (cd "$module" && "$lint" run ./...)
  go -C "$module" test ./...
  go -C "$module" mod tidy -diff > /dev/null || fail "$module/go.mod is not tidy: run go -C $module mod tidy"
done

step "gofumpt"
unformatted=$(bin/gofumpt -l api cmd controllers hack internal test)
[ -z "$unformatted" ] || fail "not formatted, run make fmt: $unformatted"

step "generated code and manifests are fresh, buf lint"
before=$(generated)
make --no-print-directory generate manifests
[ "$before" = "$(generated)" ] || fail "api/ and config/crd/bases were not freshly generated; they are now: look at git diff and commit it"

step "go.mod and go.sum are tidy"
go mod tidy -diff > /dev/null || fail "go.mod is not tidy: run go mod tidy"

step "agent and cytool build for darwin and windows"
for os in darwin windows; do
  GOOS=$os CGO_ENABLED=0 go build -o /dev/null ./cmd/agent
  GOOS=$os CGO_ENABLED=0 go build -o /dev/null ./cmd/cytool
done

step "no weak TLS by a back door"
if grep -rnE 'tlssha1|tls10server|tlsrsakex|tls3des|x509sha1' --include='*.go' --include='*.yaml' --include=go.mod --include=Dockerfile . | grep -v _test.go; then
  fail "GODEBUG settings that weaken TLS stand in the lines above"
fi
