# Fleetconf. `make` alone lists the targets.

MODULES  := pkg controller agent worker test
BINARIES := controller agent worker
TAGS     := nomsgpack,osusergo,netgo,sqlite_omit_load_extension
FUZZTIME ?= 10s

# The packages with the rules: each needs a coverage of COVER_MIN % by its tests.
RULES     := $(addprefix controller/internal/,audit poll publish registry rollout) \
	$(addprefix agent/internal/,cache pace poller reconcile state) worker/internal/proxy pkg/auth
COVER_MIN := 85

# The build in GET /version. The date is that of the commit, so that the same commit
# builds the same bytes; without git it is today's.
BUILDINFO := github.com/fleetconf/fleetconf/pkg/buildinfo
RELEASE   := $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
COMMIT    := $(or $(shell git rev-parse --short=12 HEAD 2>/dev/null | grep -v HEAD),unknown)
DATE      := $(or $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null),$(shell date -u +%Y-%m-%dT%H:%M:%SZ))
LDFLAGS   := -s -w -X $(BUILDINFO).Release=$(RELEASE) -X $(BUILDINFO).Commit=$(COMMIT) -X $(BUILDINFO).Date=$(DATE)

BUILD     := go build -buildvcs=false -tags $(TAGS) -ldflags "$(LDFLAGS)"
# Every build, test and linter uses the same flags, so that they share compiled packages;
# with -trimpath other checkouts share them too.
export GOFLAGS := -trimpath $(filter-out -trimpath,$(GOFLAGS))

GOTESTSUM := bin/tools/gotestsum --format pkgname-and-test-fails
LINTER    := bin/tools/golangci-lint

.DEFAULT_GOAL := help
NOTPARALLEL := yes
.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build $(BINARIES)
build: $(BINARIES) ## Build bin/controller, bin/agent and bin/worker

$(BINARIES):
	$(BUILD) -o bin/$@ ./$@/cmd

# Without a C compiler Go would build a controller without SQLite.
controller: export CGO_ENABLED := 1
controller: c-compiler
.PHONY: c-compiler goflags
c-compiler:
	@cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null || \
		{ echo "SQLite needs a C compiler, and $$cc is not installed. Install one, on Debian: sudo apt-get install gcc libc6-dev" >&2; exit 1; }
	@[ -e bin/controller ] || echo "Building. The first time SQLite is compiled, which takes a minute or two, and longer on a small machine."

goflags: ## Print the GOFLAGS of make, for go build and go test
	@echo '-trimpath -tags=$(TAGS)'

.PHONY: run
run: build ## Build, and run all three here (./scripts/start-all.sh)
	./scripts/start-all.sh

.PHONY: deps
deps: ## Install missing packages for building and testing; NO_INSTALL=1 only names them
	@./scripts/install-deps.sh

# Coverage is that of the rules, so only their tests are built with -cover. The stories
# in ./test take longest, so they start first of the others. Tests wait more than they
# compute, so more of them run side by side than there are cores. `make vet` is the vet
# of all. Of the long histories in the rules this plays a part, and check-long the rest.
TEST_EVENTS := bin/test.json
TEST_RULES  = $(RULES:%=./%)
TEST_OTHERS = ./test $(filter-out $(RULES:%=github.com/fleetconf/fleetconf/%),$(shell go list work))
TEST_FLAGS  := -race -count=1 -parallel 3 -timeout 20m -vet=off -tags $(TAGS)
.PHONY: test slowest
test: deps bin/tools/gotestsum ## Run the tests of every module, with -race
	@status=0; \
	RAPID_CHECKS=$${RAPID_CHECKS:-30} $(GOTESTSUM) --jsonfile bin/test-rules.json --packages "$(TEST_RULES)" -- $(TEST_FLAGS) -cover || status=1; \
	$(GOTESTSUM) --jsonfile bin/test-others.json --packages "$(TEST_OTHERS)" -- $(TEST_FLAGS) || status=1; \
	cat bin/test-rules.json bin/test-others.json >$(TEST_EVENTS); exit $$status

slowest: bin/tools/gotestsum ## Print the ten slowest tests of the last run
	@echo "The ten slowest tests:"
	@bin/tools/gotestsum tool slowest --num 10 --threshold 1s --jsonfile $(TEST_EVENTS)

.PHONY: static check
static: format vet lint tidy fresh ## Format, vet, lint, tidy modules, generated files fresh
check: static test cover slowest ## Static checks, tests with -race, coverage of the rules

# As many histories as HISTORIES says.
HISTORIES ?= 2000
.PHONY: check-long
check-long: ## Play HISTORIES (2000) random histories of the controller and of the agent, with -race
	RAPID_CHECKS=$(HISTORIES) go test -race -count=1 -timeout 60m -tags $(TAGS) -run AnyHistory \
		$(TEST_RULES) ./controller/internal/fleettest

# The four systems have ports of their own, so they run side by side.
E2E := $(addprefix e2e-,longpoll redis nats none)
.PHONY: e2e $(E2E)
e2e: deps build ## Run the whole system and break it, with each transport
	@$(MAKE) --no-print-directory -j4 --output-sync=target NOTPARALLEL= $(E2E)

$(E2E): e2e-%:
	./scripts/test-e2e.sh --push $*

.PHONY: bench
bench: build ## Run the benchmarks
	go test -run '^$$' -bench . -benchmem -tags $(TAGS) work

.PHONY: bench-push
bench-push: controller nats-server ## Measure push against polling, in 20 minutes (IDLE=10m; QUICK=1 to try it)
	go build -o bin/bench-push ./test/cmd/bench-push
	bin/bench-push $(if $(IDLE),-idle $(IDLE)) $(if $(QUICK),-quick) $(BENCHFLAGS)

# For fleets with too many connections for the embedded NATS.
.PHONY: nats-server
nats-server:
	$(BUILD) -o bin/$@ github.com/nats-io/nats-server/v2

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	./scripts/fuzz.sh $(FUZZTIME)

# Containers, by the classic builder or BuildKit. GO_IMAGE and GOPROXY set the sources of
# the compiler and the modules.
IMAGES ?= localhost/fleetconf
IMAGE_TARGETS := $(addprefix image-,modules build controller agent worker)
.PHONY: images $(IMAGE_TARGETS)
images: image-controller image-agent image-worker ## Build the images localhost/fleetconf/controller, agent, worker

$(IMAGE_TARGETS): image-%:
	docker build -f deploy/Dockerfile --target $* -t $(IMAGES)/$*:$(RELEASE) -t $(IMAGES)/$*:latest \
		--build-arg TAGS=$(TAGS) --build-arg VERSION=$(RELEASE) --build-arg COMMIT=$(COMMIT) --build-arg DATE=$(DATE) \
		$(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) $(if $(GOPROXY),--build-arg GOPROXY) $(BUILDFLAGS) .

.PHONY: up down logs
up: ## Run the composed system: PUSH=redis, COMPOSE_PROFILES=prometheus (scripts/compose.sh --help)
	./scripts/compose.sh up

down: ## Stop it; VOLUMES=1 also removes its data
	./scripts/compose.sh down $(if $(VOLUMES),--volumes)

logs: ## Follow its logs
	./scripts/compose.sh logs -f --tail=100

.PHONY: check-images check-compose
check-images: ## Build the images and check their contents, if a container engine runs
	./scripts/check-images.sh

check-compose: ## Run the composed system and kill each of its containers, if an engine runs
	./scripts/check-compose.sh

.PHONY: generate
generate: ## Generate the API documents and docs/settings.md
	go generate ./controller/... ./worker/...
	@mkdir -p bin && ./scripts/settings-doc.sh >bin/settings.md && mv bin/settings.md docs/settings.md

.PHONY: cover
cover: ## Print the coverage of the rules in the last run of the tests, and fail below 85 %
	./scripts/cover.sh $(COVER_MIN) $(TEST_EVENTS) $(RULES)

.PHONY: dist check-dist check-units check-systemd
dist check-dist check-systemd: export RELEASE := $(RELEASE)
dist check-dist check-systemd: export DATE := $(DATE)
dist check-dist check-systemd: export TAGS := $(TAGS)
dist check-dist check-systemd: export LDFLAGS := $(LDFLAGS)
dist: bin/tools/nfpm bin/tools/cyclonedx-gomod ## Build archives, Debian packages, bills of materials and checksums, into dist
	./scripts/dist.sh dist

check-dist: dist ## Build dist twice, and check its contents
	./scripts/check-dist.sh dist

check-units: ## Check the systemd units and their exposure
	./scripts/check-units.sh

check-systemd: dist ## Install, hang, upgrade and purge the packages in a copy of this machine that systemd boots
	./scripts/check-systemd.sh dist/*_$$(go env GOARCH).deb

.PHONY: vulncheck
vulncheck: bin/tools/govulncheck ## Look up known vulnerabilities in called code (from vuln.go.dev)
	for m in pkg controller agent worker; do bin/tools/govulncheck -C $$m -tags $(TAGS) ./... || exit 1; done

.PHONY: clean
clean: ## Remove build results
	rm -rf bin dist $(foreach b,$(BINARIES),$(b)/$(b))

.PHONY: format vet lint tidy fresh
format:
	@unformatted=$$(gofmt -l $(MODULES)) || exit 1; test -z "$$unformatted" || \
		{ printf 'These files are not formatted; run gofmt -w on them:\n%s\n' "$$unformatted" >&2; exit 1; }

vet:
	go vet -tags $(TAGS) work

lint: bin/tools/golangci-lint
	$(LINTER) run --build-tags $(TAGS) $(MODULES:%=./%/...)

tidy:
	@for m in $(MODULES); do GOWORK=off go -C $$m mod tidy -diff || \
		{ echo "$$m/go.mod is not tidy; run go mod tidy in $$m" >&2; exit 1; }; done

fresh:
	./scripts/check-generated.sh controller worker

# Tools are pinned in a module outside the workspace.
bin/tools/gotestsum: TOOL = gotest.tools/gotestsum
bin/tools/golangci-lint: TOOL = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/tools/nfpm: TOOL = github.com/goreleaser/nfpm/v2/cmd/nfpm
bin/tools/cyclonedx-gomod: TOOL = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
bin/tools/govulncheck: TOOL = golang.org/x/vuln/cmd/govulncheck
bin/tools/gotestsum bin/tools/golangci-lint bin/tools/nfpm bin/tools/cyclonedx-gomod bin/tools/govulncheck: tools/go.mod tools/go.sum
	@mkdir -p $(@D)
	GOWORK=off go -C tools build -buildvcs=false -o ../$@ $(TOOL)
	@touch $@

# Prerequisites run in order, also with -j; make e2e overrides that.
ifneq ($(NOTPARALLEL),)
.NOTPARALLEL:
endif
