# `make demo` and `make test` need Swift 6.3 on Debian 12 and nothing else: they install what is missing.

PREFIX ?= /usr/local
DESTDIR ?=
SWIFT ?= swift
export SWIFT_BACKTRACE = enable=no

# The Swift runtime goes into the program: who runs it needs only libraries that Debian has.
RELEASE = --configuration release --static-swift-stdlib

help:
	@echo 'make demo      a real qemu pushes a disk while another client reads it; then replay and compare'
	@echo 'make test      all tests, with real peers'
	@echo 'make check     format, and a build with warnings as errors'
	@echo 'make build     the program, optimised'
	@echo 'make install   the program, to $$(DESTDIR)$$(PREFIX)/bin (PREFIX is $(PREFIX))'
	@echo 'make packages  the Debian packages that all of this needs'
	@echo 'make test-vm   guests that run, inspected by libguestfs: minutes, and packages of its own'
	@echo 'make soak      SEEDS random histories with power losses and lying disks, every script of LENGTH operations,'
	@echo '               and KILLS of the daemon under four writers'
	@echo 'make tsan      what runs on several threads, under ThreadSanitizer'
	@echo 'make bench     speed and space beside nbdkit and qemu-nbd, in one run'
	@echo 'make fuzz      the protocol machine against libFuzzer, SECONDS for options and as many for requests'
	@echo 'make bench-server  requests: MB/s, IOPS, latencies and CPU beside nbdkit and qemu-nbd'
	@echo 'make bench-guest  what a guest feels: Spillway, nbdkit and qemu itself as targets of its backup job'
	@echo 'make bench-space  bytes on disk beside raw, qcow2 and nbdkit'
	@echo 'make bench-engine  the engine by itself: acknowledgements, spill, index, reads, opening'
	@echo 'make clean     removes what was built'

packages:
	@.ci/install-debian-packages

build: packages
	$(SWIFT) build $(RELEASE) --product spillway

demo: build
	$(SWIFT) build $(RELEASE) --product spillway-demo
	@"$$($(SWIFT) build $(RELEASE) --show-bin-path)/spillway-demo"

# Warnings are errors in every target, so that building is checking.
check: packages
	$(SWIFT) format lint --strict --recursive Sources Tests Benchmarks/Sources Benchmarks/Package.swift Package.swift
	$(SWIFT) build --build-tests

# All tests are Swift Testing's; without XCTest's empty run its summary is the last word.
test: packages
	$(SWIFT) test --disable-xctest
	Tests/Fuzzing/fuzz 10

# What it finds lies below .build-fuzz; the corpus in Tests/Fuzzing/Corpus is where it starts.
SECONDS ?= 300
fuzz: packages
	Tests/Fuzzing/fuzz $(SECONDS)

# A Linux that writes to its disk all the time. It needs no KVM: where there is none, or one that does not work, both
# it and libguestfs are emulated. Elsewhere the same tests are reported as skipped.
test-vm: packages
	@.ci/install-debian-packages guests
	SPILLWAY_TEST_VM=1 $(SWIFT) test --disable-xctest --filter VirtualMachineTests

# The same tests as in `make test`, for longer. A history that fails prints the command that runs it again, and then tells
# each step; the kills print their seed. Scripts of 4 operations take minutes, of 5 an hour.
SEEDS ?= 20000
KILLS ?= 200
LENGTH ?= 4
soak: packages
	SPILLWAY_TEST_SEEDS=$(SEEDS) $(SWIFT) test --disable-xctest --filter 'PowerLossTests/histories|MediaFaultTests'
	SPILLWAY_TEST_SCRIPT_LENGTH=$(LENGTH) $(SWIFT) test --disable-xctest --filter 'ExhaustiveCrashTests'
	SPILLWAY_TEST_KILLS=$(KILLS) $(SWIFT) test --disable-xctest --filter 'KillTests'

# A build of its own. One test at a time: a race is then that test's.
TSAN = StormTests|EpochTests|ParkedReadTests|SourceOrderTests|JobWatchTests|NBDServerTests|indexAndPublication|NBDSourceTests
tsan: packages
	$(SWIFT) test --disable-xctest --no-parallel --sanitize thread --scratch-path .build-tsan --filter '$(TSAN)'

install: build
	install -D "$$($(SWIFT) build $(RELEASE) --show-bin-path)/spillway" \
	  "$(DESTDIR)$(PREFIX)/bin/spillway"

# On a machine with nothing else to do; the figures in docs/performance.md come from here.
bench: build
	Benchmarks/push.py "$$($(SWIFT) build $(RELEASE) --show-bin-path)/spillway"

# Requests, as fio, nbdcopy and qemu-img send them, to Spillway and to the servers beside it, in turn.
SERVER_ROUNDS ?= 5
bench-server: build
	Benchmarks/server.py "$$($(SWIFT) build $(RELEASE) --show-bin-path)/spillway" --rounds $(SERVER_ROUNDS)

# What a guest feels while its old data is copied away: Spillway as the target of the backup job beside others, and beside
# qemu's own fleecing. For a machine with nothing else to do as well. WRITES of each depth a round.
GUEST_ROUNDS ?= 7
WRITES ?= 1500
bench-guest: build
	Benchmarks/guest.py "$$($(SWIFT) build $(RELEASE) --show-bin-path)/spillway" --rounds $(GUEST_ROUNDS) --writes $(WRITES)

# Bytes on disk; what else the machine does matters little.
bench-space: build
	Benchmarks/space.py "$$($(SWIFT) build $(RELEASE) --show-bin-path)/spillway"

# The engine without servers and sockets. ROUNDS of all, in turn; medians.
ROUNDS ?= 5
bench-engine: packages
	$(SWIFT) run --configuration release --package-path Benchmarks EngineBenchmark --rounds $(ROUNDS)

clean:
	rm -rf .build .build-tsan .build-fuzz Benchmarks/.build

.PHONY: help packages build demo check test test-vm soak tsan install bench bench-server fuzz bench-guest bench-space bench-engine clean
