# build test race lint bench torture: the whole of it. GOFLAGS and NETSTACKD_INTEGRATION
# are taken from the environment.
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
STATICCHECK ?= $(shell command -v staticcheck || echo $(shell $(GO) env GOPATH)/bin/staticcheck)

.PHONY: build test race lint bench torture

build:
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o netstackd ./cmd/netstackd

# Integration tests need root and skip without it; NETSTACKD_INTEGRATION=1
# makes them fail instead. -p 1: they measure, so no two packages at once.
test:
	$(GO) test -p 1 -timeout 15m ./...
	cd docs/examples && $(GO) test ./...

# The unit tests under the race detector. The integration tests start the
# plain binary, where the detector would see nothing.
race:
	NETSTACKD_INTEGRATION= $(GO) test -race -skip '^TestIntegration' -timeout 15m ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) vet ./...
	cd docs/examples && $(GO) vet ./... # a module of its own
	GOOS=linux GOARCH=s390x $(GO) vet ./... # a big-endian machine
	$(STATICCHECK) ./...
	for os in darwin windows freebsd; do \
		GOOS=$$os $(GO) build ./... && GOOS=$$os $(GO) vet ./queue/... ./link/... ./tun/... ./socks/... || exit 1; done

# Each benchmark, long enough to mean something; BENCHTIME=1x only runs it.
BENCHTIME ?= 1s
bench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Attacks, load and faults beside healthy traffic: root, 20 minutes.
# TORTURE=--short takes two; TORTURE=--list names the rows.
torture:
	$(GO) run ./bench/torture $(TORTURE)
