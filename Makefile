# The targets, with what follows ## as their help.

GO       ?= go
# The version is asked of git, where there is one, and goes into the binary.
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BIN      := bin/forebay
FUZZTIME ?= 30s

# The version of the linter is fixed, so that it says the same on every machine.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

PG_BIN := $(wildcard /usr/lib/postgresql/*/bin/initdb) $(shell command -v initdb 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help build run test race bench lint fuzz clean deps

help: ## show this help
	@echo 'Usage: make TARGET'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/forebay
	@$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(BIN) ./appliance/forebay

run: build ## run an appliance on this machine, with an account ready to use; data under ./data
	@exec $(BIN) serve --dev

test: deps ## run every test
	@$(GO) test -timeout 10m ./...

race: deps ## run every test under the race detector
	@$(GO) test -race -timeout 20m ./...

bench: deps build ## measure, each figure beside its baseline
	@$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./appliance

lint: ## check format, go vet, staticcheck
	@files=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$files" ]; then echo "gofmt these: $$files" >&2; exit 1; fi
	@$(GO) vet ./...
	@$(GO) run $(STATICCHECK) ./...

fuzz: ## run each fuzz target for FUZZTIME (30s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | sed 's/^func //'); do \
			echo "$$dir $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir"; \
		done; \
	done

clean: ## remove what was built; the data under ./data stays
	@rm -rf bin dist

# PostgreSQL is the one thing that the tests need and Go does not bring. Nothing
# is done where it is installed already.
deps: ## install what the tests need (PostgreSQL), if it is missing
ifeq ($(strip $(PG_BIN)),)
	@set -e; as=; \
	if [ "$$(id -u)" -ne 0 ]; then \
		command -v sudo >/dev/null || { echo 'make deps: PostgreSQL is missing; install the package postgresql as root' >&2; exit 1; }; \
		as=sudo; \
	fi; \
	command -v apt-get >/dev/null || { echo 'make deps: PostgreSQL is missing, and so is apt-get; install PostgreSQL 13 or newer' >&2; exit 1; }; \
	echo 'make deps: installing postgresql' >&2; \
	install="$$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql"; \
	$$install >/dev/null 2>&1 || { $$as apt-get update -qq && $$install >/dev/null; }
endif
