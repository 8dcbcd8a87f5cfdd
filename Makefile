# Rollcall. `make help` lists what there is. Nothing needs installing but Go, git, make and a C compiler.
SHELL := /usr/bin/env bash -eu -o pipefail
.DEFAULT_GOAL := help
export GOTOOLCHAIN ?= local

KUBERNETES_VERSION ?= 1.37.2
export KUBERNETES_VERSION
BIN := $(CURDIR)/bin
# the tools' pins are tools/go.mod and tools/buf/go.mod: a tool is built anew when its pin moves
GOFUMPT := $(BIN)/gofumpt
CONTROLLER_GEN := $(BIN)/controller-gen
LINT := $(BIN)/golangci-lint
BUF := $(BIN)/buf
PROTOC_GEN := $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-vtproto

# built rather than `go run`: Ctrl-C must reach the demo itself, once
DEMO = go build -o $(BIN)/demo ./hack/demo && exec $(BIN)/demo $(DEMO_FLAGS)
GATEWAY_PORT ?= 8443

##@ Use it
.PHONY: run env agents block unblock stop clean
run: ## A real control plane, manager, gateway and an agent on this machine; Ctrl-C ends it (KUBECONFIG=... for your own cluster).
	@$(DEMO) run --gateway-port=$(GATEWAY_PORT) $(if $(filter command line,$(origin KUBECONFIG)),--kubeconfig=$(KUBECONFIG))

env: ## Print what puts kubectl and cytool on PATH, for: eval "$$(make env)"
	@$(DEMO) env

N ?= 50
agents: ## Enrol N more agents beside `make run` (N=50).
	@$(DEMO) agents -n $(N)

MODE ?= block
block: ## Break the agents' websockets, keep HTTPS (MODE=cut=20, swallow, swallow=pongs, half-open or half-open=all: other faults).
	@$(DEMO) relay $(MODE)

unblock: ## Let everything pass again.
	@$(DEMO) relay pass

stop: ## Stop what `make run` and `make agents` started; their state stays in .run/.
	@$(DEMO) stop

clean: ## Stop everything and forget it: .run/. The built Kubernetes stays in your cache directory.
	@$(DEMO) clean

##@ Work on it
.PHONY: test verify lint generate manifests fuzz fmt
test: ## The whole suite, against a real kube-apiserver: at most 10 minutes on 2 cores (ARGS='-run Enrol ./test/e2e' for a part).
	@go run ./hack/test $(ARGS)

verify: lint verify-tools ## All that must hold of the sources: vet, lint, format, generated code, go.mod, other platforms, import directions.
	@hack/verify.sh

lint: $(LINT) ## golangci-lint with .golangci.yml, and buf lint.
	@echo "verify: golangci-lint"; $(LINT) run ./...

generate: $(CONTROLLER_GEN) $(BUF) $(PROTOC_GEN) ## Generate Go code from api/: deep copies, protobuf.
	@$(CONTROLLER_GEN) object paths=./api/v1alpha1/...
	@$(BUF) format -w && $(BUF) lint && $(BUF) generate

manifests: $(CONTROLLER_GEN) ## Generate the CRDs in config/crd/bases from api/v1alpha1.
	@$(CONTROLLER_GEN) crd paths=./api/v1alpha1/... output:crd:dir=config/crd/bases

fmt: $(GOFUMPT) ## Format Go code.
	@$(GOFUMPT) -w api cmd controllers hack internal test

T ?= 30s
fuzz: ## Run every fuzz target for T each (T=30s).
	@hack/fuzz.sh $(T)

.PHONY: test-node
test-node: ## What is shipped, on a real node: kubelet, containerd, Pods; rolled, drained, killed, split (Linux, root; KEEP=1 keeps the logs).
	@go build -o $(BIN)/test-node ./test/node && exec $(BIN)/test-node $(if $(KEEP),--keep)

.PHONY: faults
FAULTS_FLAGS = $(if $(RUNS),--runs=$(RUNS)) $(if $(SEED),--seed=$(SEED)) $(if $(RUN),--run=$(RUN)) $(if $(MATCH),--match='$(MATCH)') $(if $(RACES),--races=$(RACES)) $(if $(KEEP),--keep=$(KEEP))
faults: ## Kill each program at each step of an action, and judge the end (RUNS=500, SEED=7 RUN=12, MATCH='agent: after'; RACES=1000: cancels and expiries).
	@go test -tags=faults ./internal/faults
	@go build -o $(BIN)/faults ./test/faults && exec $(BIN)/faults $(FAULTS_FLAGS)

BENCH = go build -C test/bench -o $(BIN)/bench $(1) && exec $(BIN)/bench
.PHONY: bench soak
bench: ## Measure what an agent costs, beside a raw server and opamp-go's (ROWS=memory,attack for a part, N=1000 agents, DOC=docs/performance.md).
	@$(call BENCH,.) --n=$(if $(filter command line,$(origin N)),$(N),5000) --rows=$(ROWS) $(if $(DOC),--doc=$(DOC))

DURATION ?= 1h
soak: ## A fleet in real time: DURATION (1h) of writes counted, and a twelfth of it (5m) without the API server.
	@$(call BENCH,./soak) --duration=$(DURATION)

VULNDB ?= https://vuln.go.dev
.PHONY: vulncheck
vulncheck: ## What is known of weaknesses in what the programs call (VULNDB=file:///a/mirror without the Internet).
	@go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 -db $(VULNDB) ./cmd/...

.PHONY: sslscan
sslscan: ## Compare the running demo's gateway with what Debian's sslscan finds (apt-get install sslscan).
	@hack/sslscan.sh 127.0.0.1:$(GATEWAY_PORT)

.PHONY: help build
help: ## This list.
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {gsub(/\$$\$$/, "$$", $$2); printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the programs into bin/.
	@go build -o $(BIN)/rollcall-manager ./cmd/manager
	@go build -o $(BIN)/rollcall-gateway ./cmd/gateway
	@go build -o $(BIN)/rollcall-agent ./cmd/agent
	@go build -o $(BIN)/cytool ./cmd/cytool
	@go build -o $(BIN)/fleetsim ./cmd/fleetsim
	@go build -o $(BIN)/rollcall-relay ./test/relay/cmd

$(BUF): tools/buf/go.mod
	@echo "tools: building buf (once)"; go build -C tools/buf -o $@ github.com/bufbuild/buf/cmd/buf

tool = @echo "tools: building $(@F) (once$(2))"; go build -C tools -o $@ $(1)
$(GOFUMPT): tools/go.mod
	$(call tool,mvdan.cc/gofumpt)
$(CONTROLLER_GEN): tools/go.mod
	$(call tool,sigs.k8s.io/controller-tools/cmd/controller-gen)
$(LINT): tools/go.mod
	$(call tool,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,; some minutes)
$(BIN)/protoc-gen-go: tools/go.mod
	$(call tool,google.golang.org/protobuf/cmd/protoc-gen-go)
$(BIN)/protoc-gen-go-vtproto: tools/go.mod
	$(call tool,github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto)

.PHONY: verify-tools
verify-tools: $(GOFUMPT) $(CONTROLLER_GEN) $(BUF) $(PROTOC_GEN)
