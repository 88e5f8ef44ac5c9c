# What people do daily. `make run` and `make test` need Python 3.11 or newer, a C compiler, and nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CC     ?= cc
MODEL  := models/lenet-300-100.onnx
CORE   := $(wildcard csrc/codec/*.c csrc/kernels/*.c csrc/ops/*.c csrc/cluster/*.c csrc/bench/*.c)

.PHONY: help setup run test test-slow lint fuzz sanitize bench dist clean
help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / \t/' | expand -t 14

$(VENV)/.installed: pyproject.toml setup.py MANIFEST.in $(CORE) $(wildcard csrc/*/*.h csrc/*/*.inc csrc/ort/*.c)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || { \
	  echo "torch can't be installed here: tests of training will be skipped"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'; }
	@mkdir -p .typing/eie && ln -sfn ../../compiler .typing/eie/compiler && ln -sfn ../../runtime .typing/eie/runtime
	@touch $@

setup: $(VENV)/.tested ## everything for development, into .venv

run: $(VENV)/.installed ## install, and optimize the bundled LeNet-300-100
	$(BIN)/optimize $(MODEL) -o build/lenet-300-100.eie.onnx

test: $(VENV)/.tested lint ## all tests but the slow ones, and the linters
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow" # workers share the cores: threads of their own would wait for each other

test-slow: $(VENV)/.tested ## the slow tests: wheel and sdist in clean environments, exhaustive sweeps
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.tested ## ruff and mypy
	$(BIN)/ruff check .
	MYPYPATH=.typing $(BIN)/mypy

fuzz: ## damaged payloads through the C decoder, under AddressSanitizer and UBSan: make fuzz SECONDS=300
	$(MAKE) -C tests/fuzz CC=$(CC) SECONDS=$(or $(SECONDS),120)

sanitize: ## the C self-test under AddressSanitizer, UBSan and ThreadSanitizer (`make -C tests/csrc emulated neon`: other machines' kernels)
	$(MAKE) -C tests/csrc run CC=$(CC)
	$(MAKE) -C tests/csrc thread CC=$(CC)

bench: $(VENV)/.installed ## kernels and the bundled model beside ONNX Runtime, about 15 minutes; benchmarks/README.md has more
	$(BIN)/eie bench layers
	$(BIN)/optimize $(MODEL) -o build/lenet-300-100.eie.onnx
	$(BIN)/eie bench model build/lenet-300-100.eie.onnx --against $(MODEL)

dist: $(VENV)/.tested ## sdist and wheel
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist .typing *.egg-info runtime/*.so
