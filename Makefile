# Two commands: `make demo` (checkpoint -> bundle -> text, no torch) and `make test`.
# Both work in .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
EACH ?= 60
FUZZ ?= 10000
SEED ?= 0
RESULTS ?= docs/results/bench
PAGES ?= README.md docs/results/README.md docs/results/bench/README.md
GPU_PYTHON ?= $(PYTHON)
WORDS ?= keyboard february humanoid piscataway kubernetes

.PHONY: demo test test-arm64 test-wheel fuzz fuzz-coverage faults soak lint site bench clean

demo: $(VENV)/.demo
	@$(BIN)/seq2edge export examples/g2p/model build/g2p.bundle --force
	@echo
	@$(BIN)/seq2edge inspect build/g2p.bundle
	@echo
	@$(BIN)/python examples/g2p/pronounce.py build/g2p.bundle $(WORDS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -rs -n auto --dist loadfile

# The runtime on emulated arm64 processors, beside x86. Loads 150 MB into build/arm64 once.
# ARM64 holds options, such as ARM64="--cpu cortex-a76" (tests/arm64/main.py --help).
test-arm64: $(VENV)/.dev
	$(BIN)/python tests/arm64/main.py $(ARM64)

# The wheel on every Python that is installed here, at the oldest and newest dependencies; 2 GB of downloads.
# WHEEL holds options, such as WHEEL="--python 3.12" (tests/packaging/matrix.py --help).
test-wheel: $(VENV)/.dev
	$(PIP) uv
	$(BIN)/python tests/packaging/matrix.py $(WHEEL)

# The documentation, into build/site.
site: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict

# Mutated files of others; FUZZ is how many of each kind, SEED which, KINDS of what (tests/fuzz/cases.py).
fuzz: $(VENV)/.dev
	TMPDIR=$(firstword $(wildcard /dev/shm) /tmp) $(BIN)/python tests/fuzz/fuzz.py $(KINDS) --cases $(FUZZ) --seed $(SEED)

# Parsers that are ours, guided by what is reached (atheris); TARGETS of tests/fuzz/coverage_guided.py, EACH so many seconds.
fuzz-coverage: $(VENV)/.dev
	$(PIP) atheris
	$(BIN)/python tests/fuzz/coverage_guided.py $(TARGETS) --seconds $(EACH)

# Commands killed, or their disk failing, at every call that writes (tests/faults/faults.py).
faults: $(VENV)/.dev
	TMPDIR=$(firstword $(wildcard /dev/shm) /tmp) $(BIN)/python tests/faults/faults.py $(COMMANDS)

# 8 threads, 10,000 mixed calls each: answers exact, memory flat.
soak: $(VENV)/.dev
	$(BIN)/seq2edge export examples/g2p/model build/soak.bundle --force --no-validate
	$(BIN)/python tests/soak/soak.py build/soak.bundle

# docs/results for this machine: seq2edge beside all peers on the CPU, and the demo model's variants.
# Makes environments and models of the peers once (BENCH_CACHE, 15 GB; default: in ~/.cache), then
# measures for 40 minutes. RESULTS takes tables and JSON, build/bench pages with plots; PAGES are those
# whose table is replaced. BENCH holds options (python -m seq2edge.benchmarks.suite --help).
bench: $(VENV)/.dev
	mkdir -p build/bench
	$(BIN)/python -m tests.real_weights > build/bench/speech.json
	$(BIN)/python -m seq2edge.benchmarks.suite $(RESULTS) --work build/bench --speech build/bench/speech.json \
	  --demo examples/g2p/model examples/g2p/test.jsonl --pages $(PAGES) \
	  $(if $(BENCH_CACHE),--cache $(BENCH_CACHE)) $(BENCH)

# On an NVIDIA GPU, without a network: what GPU_PYTHON has installed takes part.
test-gpu:
	$(GPU_PYTHON) tests/gpu/check.py build/gpu/test.json

bench-gpu:
	mkdir -p build/gpu
	$(GPU_PYTHON) -m seq2edge.cli.main peers --gpu --torch "$$(command -v $(GPU_PYTHON))" --runs 10 \
	  --roofline --output build/gpu/bench.json --html build/gpu/bench.html --force

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY=$(abspath $(BIN))/mypy .ci/typecheck

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[cpu,export]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
