# The verbs of this project; CI calls the same ones (.ci/run). Nothing but Go, make and git must be there:
# what else is needed, scripts/setup.sh installs or names.
SHELL   := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/holdfast-dr/holdfast/internal/cli.version=$(VERSION)
GO      ?= go
# -count=1: the tests that build and run the program are not seen by the test cache.
# -parallel: tests with servers wait most of the time; one more than there are processors lets others go on meanwhile.
# -vet=off: make lint vets everything.
# UNRACED is what computes and shares nothing: under the race detector it takes five to ten times as long, and half of all that
# the tests take. What it reads and writes of ours, internal/repo tells the detector itself.
UNRACED   := github.com/klauspost/compress github.com/pierrec/lz4/v4 github.com/zeebo/blake3 lukechampine.com/blake3 golang.org/x/crypto/scrypt
TESTFLAGS ?= -race $(UNRACED:%=-gcflags=%/...=-race=false) -vet=off -count=1 -timeout 60m -parallel $(shell echo $$(($$(nproc) + 1)))
FUZZTIME  ?= 10s
MANDIR    ?= man

.PHONY: help build setup test test-minio soak regions lint demo demo-regions bench fuzz docs clean

help:
	@echo "make build   the static binary ./bin/holdfast"
	@echo "make demo    watch a real PostgreSQL being protected, destroyed and recovered"
	@echo "make demo-regions  the same with three sites, of which the one with the database is lost"
	@echo "make test    every test, with the race detector, on real servers"
	@echo "make test-minio  the store's tests on MinIO too; building it takes minutes"
	@echo "make soak    snapshots of what changed, ROUNDS ($(ROUNDS)) upon each other, under a load that moves files"
	@echo "make regions regions that are cut off (as root); what is lost with one, KILLS ($(KILLS)) times in each mode, another one 50 ms away"
	@echo "make lint    format, vet, staticcheck, the house rules, known vulnerabilities"
	@echo "make bench   Holdfast beside the peers that are installed"
	@echo "make fuzz    every fuzz target for FUZZTIME ($(FUZZTIME))"
	@echo "make docs    docs/cli, docs/exit-codes.md, the JSON Schema and man pages in $(MANDIR)/"

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/holdfast ./cmd/holdfast

setup:
	@scripts/setup.sh

# GOMEMLIMIT: under the race detector the garbage of a package's tests would take what other packages beside it need.
# GORACE: a program with the detector waits for a second before it ends; tests run themselves as commands, hundreds of times.
# Other versions of PostgreSQL are fetched where they can be had; where not, the tests of those versions are
# skipped and say so.
test:
	@scripts/setup.sh tests
	@if [ -x scripts/pg-versions.sh ]; then scripts/pg-versions.sh || echo "make test: goes on with the installed versions of PostgreSQL"; fi
	GOMEMLIMIT=4GiB GORACE=atexit_sleep_ms=20 $(GO) test $(TESTFLAGS) ./...

test-minio:
	$(GO) build -C tools/minio -trimpath -o $(CURDIR)/.bin/minio github.com/minio/minio
	HOLDFAST_TEST_MINIO=$(CURDIR)/.bin/minio $(GO) test -count=1 -run TestConformanceMinio ./internal/store/s3
	HOLDFAST_TEST_MINIO=$(CURDIR)/.bin/minio $(GO) test -count=1 -run TestThiefWithTheOwnersKeys ./internal/e2e

# ROUNDS snapshots of what changed for each version and setting; every page that the log did not name is compared. A
# hundred take many hours on two cores. What was compared and missed is printed, in one line each and all together.
ROUNDS ?= 100
# The versions between those of make test, and whatever else HOLDFAST_TEST_PG lists: directories like /usr/lib/postgresql.
SOAK_PG = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast-test/pg-soak
SOAK = HOLDFAST_TEST_PG="$(SOAK_PG):$$HOLDFAST_TEST_PG" $(GO) test -count=1 -timeout 0 -v
soak: setup
	@scripts/pg-versions.sh || echo "make soak: goes on with the installed versions of PostgreSQL"
	@scripts/pg-versions.sh soak || echo "make soak: goes on with the versions that are here"
	$(SOAK) -run 'TestSnapshotsOfWhatChanged|TestSnapshotsOverSwitchovers' ./internal/e2e -changed.rounds=$(ROUNDS)
	$(SOAK) -run TestHistory ./internal/e2e -history.steps=$$(($(ROUNDS) * 20))
	$(SOAK) -run TestChanged ./internal/capture -changed.all
	$(SOAK) -run TestWriterKilled ./internal/capture -crash.stride=1
	$(SOAK) -run TestEachKill ./internal/repo -kill.stride=1
	$(SOAK) -run 'Test(Collection|Carry|Copy)Model' ./internal/repo -model.runs=$(ROUNDS)
	$(SOAK) -run 'TestMapHolds|TestMapOverCrashes|TestMapAgrees' ./internal/pg/wal/changed -truth.rounds=$(ROUNDS)
	$(SOAK) -run 'TestRecordsAre|TestBlocksAre' ./internal/pg/wal/record

KILLS ?= 20
regions: setup
	$(GO) test -count=1 -timeout 0 -v -run 'TestRegionsThatAreCutOff|TestALineFallsSilent|TestPartition|TestASiteIsLostDuringARestore' ./internal/e2e -regions.cuts
	$(GO) test -count=1 -timeout 0 -v -run TestAcrossRegions ./internal/e2e -regions.kills=$(KILLS)

lint:
	@scripts/lint.sh

demo: setup build
	./bin/holdfast demo

demo-regions: setup build
	./bin/holdfast demo --regions

bench: setup build
	bench/run

fuzz:
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

docs: build
	./bin/holdfast docs markdown docs/cli
	./bin/holdfast docs man $(MANDIR)
	./bin/holdfast docs exit-codes docs/exit-codes.md
	./bin/holdfast config schema > docs/holdfast.schema.json

clean:
	rm -rf bin .bin man
