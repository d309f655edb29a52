# The targets, with what follows ## as their help.

GO       ?= go
# The version is asked of git, where there is one, and goes into the binary.
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BIN      := bin/forebay
FUZZTIME ?= 30s
CRASHROUNDS ?= 200

# The version of the linter is fixed, so that it says the same on every machine.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

PG_BIN := $(wildcard /usr/lib/postgresql/*/bin/initdb) $(shell command -v initdb 2>/dev/null)
# What the tests need and Go does not bring: a database, and what makes a sync
# fail and a small disk for a test, a browser for the status page, and promtool,
# which comes with Prometheus; a machine with a real systemd for the package. Only
# what is missing is installed.
MISSING := $(if $(strip $(PG_BIN)),,postgresql) \
	$(if $(shell PATH=$$PATH:/usr/sbin:/sbin command -v strace),,strace) \
	$(if $(shell PATH=$$PATH:/usr/sbin:/sbin command -v mkfs.ext4),,e2fsprogs) \
	$(if $(shell PATH=$$PATH:/usr/sbin:/sbin command -v ip),,iproute2) \
	$(if $(shell PATH=$$PATH:/usr/sbin:/sbin command -v exim4),,exim4-daemon-light) \
	$(if $(shell command -v chromium),,chromium) \
	$(if $(shell command -v promtool),,prometheus) \
	$(if $(shell command -v systemd-nspawn),,systemd-container) \
	$(if $(shell command -v mmdebstrap),,mmdebstrap)

.DEFAULT_GOAL := help
.PHONY: help build run test crash race bench lint fuzz package clean deps

help: ## show this help
	@echo 'Usage: make TARGET'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/forebay
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./appliance/forebay

run: build ## run an appliance on this machine, with an account ready to use; data under ./data
	@exec $(BIN) serve --dev

test: deps ## run every test
	@$(GO) test -p 1 -timeout 25m ./...
	@$(GO) -C packaging test -timeout 20m ./...

crash: deps ## kill real appliances and logs hundreds of times under load
	@FOREBAY_CRASH_ROUNDS=$(CRASHROUNDS) $(GO) test -count 1 -run 'Crash|Kill|PowerCut' -v -timeout 60m ./wal ./appliance

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

# The package's version sorts by the commit's time, and a commit always gives the
# same package.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
DEB_VERSION ?= 0.1.0+$(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y%m%d.%H%M%S)
DEB_ARCH    := $(shell $(GO) env GOARCH)

package: build ## build dist/forebay_VERSION_ARCH.deb
	@rm -rf dist/man dist/man5 dist/completion && mkdir -p dist/man dist/man5 dist/completion
	@$(BIN) docs man dist/man packaging/doc/configuration.md && mv dist/man/*.5 dist/man5/
	@gzip -9n dist/man/*.1 dist/man5/*.5
	@$(BIN) completion bash > dist/completion/forebay.bash
	@$(BIN) completion zsh > dist/completion/_forebay
	@$(BIN) completion fish > dist/completion/forebay.fish
	@$(GO) -C packaging build -o ../dist/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm
	@VERSION=$(DEB_VERSION) ARCH=$(DEB_ARCH) dist/nfpm package --config packaging/nfpm.yaml --packager deb --target dist/ | grep -v '^using'

clean: ## remove what was built; the data under ./data stays
	@rm -rf bin dist

deps: ## install what the tests need (PostgreSQL, strace, e2fsprogs, iproute2, Chromium, promtool, systemd-nspawn), if it is missing
ifneq ($(strip $(MISSING)),)
	@set -e; as=; \
	if [ "$$(id -u)" -ne 0 ]; then \
		command -v sudo >/dev/null || { echo 'make deps: install these packages as root: $(strip $(MISSING))' >&2; exit 1; }; \
		as=sudo; \
	fi; \
	command -v apt-get >/dev/null || { echo 'make deps: apt-get is missing, and so are these packages: $(strip $(MISSING))' >&2; exit 1; }; \
	echo 'make deps: installing $(strip $(MISSING))' >&2; \
	install="$$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(strip $(MISSING))"; \
	$$install >/dev/null 2>&1 || { $$as apt-get update -qq && $$install >/dev/null; }
endif
