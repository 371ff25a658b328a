# Two commands: `make demo` (the main job on the drawn demo set), `make test` (lint, types, pages, tests on the wheel).
# Both set up a virtual environment in .venv first; nothing is installed outside it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXTRAS := cpu,train,docs,test
DEMO := demo
# One install of the wheel for each state of the sources, and for each commit, which its version names: the stamp is
# older than any file that goes into it.
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE docs/glossary.md $(shell find train export runtime -type f \
	! -name '*.so' ! -path '*/__pycache__/*' | sed 's/ /\\ /g') \
	$(wildcard $(shell git rev-parse --git-path logs/HEAD 2>/dev/null))

.PHONY: help setup wheel demo test test-slow faults fuzz lint docs format stubs bench bench-cpu bench-gpu sbom clean

help:
	@echo "make demo       train, export, label, add a class, label again, on the drawn demo set"
	@echo "make test       lint, types, pages, and the tests against the built wheel"
	@echo "make test-slow  the long tests: kills, full disks, the whole line"
	@echo "make faults     kills, failing disks, limits and clocks, FAULT_POINTS=1000 of each command: some hours"
	@echo "make fuzz       every door with damaged files, the compiled core under sanitizers; FUZZ_SECONDS=30 for each"
	@echo "make lint       ruff and mypy alone"
	@echo "make docs       the pages of docs/ into build/site"
	@echo "make sbom       what a runtime consists of, as CycloneDX: build/sbom.cdx.json"
	@echo "make stubs      the types of the compiled core, after a change of its bindings"
	@echo "make bench      latency report of this machine"
	@echo "make bench-cpu  networks on its CPU, ours and others in turns: benchmarks/results/cpu.json, 8 minutes"
	@echo "make bench-gpu  the report of its NVIDIA card: build/gpu.json"

setup: $(BIN)/.dependencies $(BIN)/.wheel

$(BIN)/.dependencies: pyproject.toml constraints.txt tools/requirements.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt build $$($(BIN)/python tools/requirements.py $(EXTRAS))
	touch $@

$(BIN)/.slow: $(BIN)/.dependencies
	$(PIP) install --quiet --constraint constraints.txt $$($(BIN)/python tools/requirements.py slow)
	touch $@

$(BIN)/.wheel: $(BIN)/.dependencies $(SOURCES)
	rm -rf build/dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --wheel --outdir build/dist .
	$(PIP) install --quiet --force-reinstall --no-deps build/dist/*.whl
	touch $@

demo: setup
	$(BIN)/python tools/demo.py $(DEMO)

lint: $(BIN)/.dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# NO_MKDOCS_2_WARNING: the theme would advertise its successor at every build.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: setup lint docs
	$(BIN)/python -m pytest

test-slow: setup $(BIN)/.slow
	$(BIN)/python -m pytest -m slow --timeout 3600

FAULT_POINTS ?= 1000
faults: setup
	ZSL_FAULT_POINTS=$(FAULT_POINTS) ZSL_FAULTS_OUT=benchmarks/results/reliability \
		$(BIN)/python -m pytest tests/faults -m "slow or not slow" --timeout 36000

# Every door, with inputs that are changed and, where atheris is installed, chosen by what they reach; the compiled core
# under sanitizers. FUZZ_SECONDS for each door; what breaks one is kept in tests/fuzz/corpus.
FUZZ_SECONDS ?= 30
FUZZ_OUT ?= build/fuzz.json
SANITIZED := build/sanitized
fuzz: setup $(BIN)/.slow
	for kind in address,undefined thread; do \
		rm -rf $(SANITIZED)/$$kind; \
		PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --wheel --outdir $(SANITIZED)/$$kind . \
			-Ccmake.define.ZSL_SANITIZE=$$kind -Ccmake.define.ZSL_CUDA=OFF -Cbuild-dir=$(SANITIZED)/tree/$$kind \
			-Cinstall.strip=false && \
		$(BIN)/python -m zipfile -e $(SANITIZED)/$$kind/*.whl $(SANITIZED)/$$kind || exit 1; \
	done
	ZSL_FUZZ_SANITIZED=$(CURDIR)/$(SANITIZED) $(BIN)/python -m pytest tests/fuzz/test_sanitized.py -m slow --timeout 3600
	$(BIN)/python tests/fuzz/run.py native --seconds $(FUZZ_SECONDS) --out $(FUZZ_OUT) --sanitizer address \
		--core $(SANITIZED)/address,undefined/zsl_runtime/_native*.so
	$(BIN)/python tests/fuzz/run.py native --seconds $(FUZZ_SECONDS) --out $(FUZZ_OUT) --sanitizer thread \
		--core $(SANITIZED)/thread/zsl_runtime/_native*.so
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --out $(FUZZ_OUT)
	if $(BIN)/python -c "import atheris" 2>/dev/null; then \
		$(BIN)/python tests/fuzz/run.py --guided --seconds $(FUZZ_SECONDS) --out $(FUZZ_OUT); fi

bench: setup
	mkdir -p build
	$(BIN)/python -m pytest benchmarks -m "" -o "python_files=bench_*.py" -o "python_functions=bench_*" \
		--benchmark-only --benchmark-quiet --benchmark-json=build/bench.json

# Both bench-cpu and bench-gpu run in another environment with BENCH_PYTHON, such as one that has torch for CUDA and TensorRT:
# make bench-gpu BENCH_PYTHON=/path/to/python
BENCH_PYTHON ?= $(BIN)/python
bench-cpu: $(if $(filter $(BIN)/python,$(BENCH_PYTHON)),setup)
	$(BENCH_PYTHON) benchmarks/cpu.py $(BENCH_CPU)

bench-gpu: $(if $(filter $(BIN)/python,$(BENCH_PYTHON)),setup)
	$(BENCH_PYTHON) benchmarks/gpu.py --out build/gpu.json $(BENCH_GPU)

format: $(BIN)/.dependencies
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sbom: setup
	$(PIP) install --quiet --constraint constraints.txt "cyclonedx-python-lib[json-validation]"
	$(BIN)/python tools/sbom.py

stubs: setup
	$(BIN)/python -m nanobind.stubgen -q -m zsl_runtime._native -o runtime/zsl_runtime/_native.pyi

clean:
	rm -rf build $(VENV) $(DEMO)
