# make demo   set everything up, then one prompt over nine MPI ranks
# make demo-faults    the same, while two of the eight workers die
# make test   set everything up, then all checks and tests
# make test-fast   checks and the tests that take under a second: a minute and a half
# make test-all   make test with all that CI leaves out: 3,000 damaged files of each kind, every family: 3 hours
# make matrix   a smoke set on every Python found, with the oldest and the newest packages, and beside torchvision: an hour, 30 GB
# make figures   the figures in docs/figures, from runs of its own: 4 minutes
# make docs   these pages as a site, in site/: without a warning, or it fails
# make bench  speed and memory beside one process, and beside llama.cpp with LLAMA=folder of its programs: an hour
# make peers LLAMA=folder   the same kill and stop of a worker, for llama.cpp and for us: 5 minutes
# make faults-outside   1,000 faults from outside (N=another count), at moments of the protocol, each run judged: 2 hours
# make fault-matrix   every fault at every place, measured: 40 minutes

PYTHON ?= python3
BIN := .venv/bin
PROMPT ?= Why is the sky blue?

# mpirun refuses to work as root (containers, CI) unless told twice that it may.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif
# Nor without the name of a home folder.
ifndef HOME
export HOME := $(or $(shell getent passwd "$$(id -u)" | cut -d: -f6),/tmp)
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo demo-faults test test-alone test-together test-fast test-all lint matrix setup clean docs bench peers fault-matrix faults-outside figures

demo: .venv/ready
	mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi --prompt "$(PROMPT)"

demo-faults: .venv/ready
	mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi --prompt "$(PROMPT)" --fault "kill 3 @ 20; kill 6 @ 60"

test: .venv/ready-for-tests lint
ifdef TESTS
	python -m pytest -q $(TESTS)
else
	$(MAKE) --no-print-directory --jobs 2 test-alone test-together
endif

# Tests of one process, two at a time, take what those that start mpirun leave of the machine's time.
test-alone:
	nice -n 10 python -m pytest -q -n 2 --dist worksteal -m "not mpirun" > .venv/test-alone.txt 2>&1; status=$$?; echo; cat .venv/test-alone.txt; exit $$status

test-together:
	python -m pytest -q -m mpirun

test-all:
	JARVIS_TEST_SLOW=1 JARVIS_MUTATIONS=3000 $(MAKE) --no-print-directory test

# For the inner loop: a minute and a half.
test-fast: .venv/ready-for-tests lint
	python -m pytest -q -m "not (mpirun or hosts or slurm or slow)"

lint: .venv/ready-for-tests
	ruff check .
	ruff format --check .
	mypy

matrix: .venv/ready
	python .ci/matrix.py $(if $(ONLY),--only $(ONLY))

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt jarvis_mpi/testbed/setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jarvis_mpi needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv || { echo "cannot make .venv: apt-get install python3-venv"; exit 1; }
	python -m pip install --quiet --constraint constraints.txt --editable .
	python -m jarvis_mpi setup
	touch $@

.venv/ready-for-tests: .venv/ready
	python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/ready-for-docs: .venv/ready
	python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: .venv/ready-for-docs
	mkdocs build --strict --quiet

bench: .venv/ready
	python -m benchmarks.speed.decode $(if $(LLAMA),--llama "$(LLAMA)")
	python -m benchmarks.speed.streams
	for weights in auto int8 int4; do python -m benchmarks.memory.peaks --weights $$weights; done
	timeout -k 5 300 mpirun -hostfile hostfiles/local -n 9 python -m benchmarks.speed.hop

peers: .venv/ready
	python -m benchmarks.faults.peers --llama "$(LLAMA)"

fault-matrix: .venv/ready
	mkdir -p runs
	python -m benchmarks.faults.process_matrix --out runs/fault-matrix.md

faults-outside: .venv/ready
	python -m benchmarks.outside --faults $(or $(N),1000) $(if $(SEED),--seed $(SEED))

figures: .venv/ready-for-tests
	python -m benchmarks.figures

clean:
	rm -rf .venv build *.egg-info
