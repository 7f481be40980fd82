# `make help` lists the commands. Everything is installed in .venv, from the locks.

PYTHON ?= python3
VENV := .venv/bin
OUT := out/demo
# With these every status that a local run knows appears: one image is larger than the engine
# accepts, one needs no upscaling, and the credits suffice for all but one of the others.
DEMO := --engine esrgan-v1-x2plus --oversize reject --min-side 600 --max-credits 1.2

# A GPU machine may have its own PyTorch and no network: a Python named by hand is used as it is.
ifeq ($(origin PYTHON),file)
GPU_PYTHON := $(VENV)/python
GPU_SETUP := install-dev
else
GPU_PYTHON := $(PYTHON)
GPU_SETUP :=
endif

# The tests of the modules whose coverage pyproject.toml asks for. Measuring takes a third of a
# test's time, and that a whole run passes through a line says little about what looks at it.
MEASURED := tests/unit/planning tests/unit/images tests/unit/dataset/manifest tests/unit/test_errors.py
# What one process compiles the next one finds, wherever that is turned off.
QUICK_TESTS := PYTHONDONTWRITEBYTECODE= $(VENV)/pytest -n auto -m "not slow and not gpu"

COMPILE := $(PYTHON) .ci/environment.py uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-build-options \
	--custom-compile-command "make lock" $(UPGRADE)

.PHONY: help
help: ## this list
	@awk -F ': [^#]*## ' '/^[a-z-]+: .*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: install ## upscale the images in samples/ and show what became of each
	@rm -rf $(OUT)
	$(VENV)/beam-upscale plan samples $(DEMO)
	$(VENV)/beam-upscale run samples $(OUT) $(DEMO)
	$(VENV)/beam-upscale verify $(OUT)
	@echo "Look at $(OUT)/images beside samples/, and at $(OUT)/manifest for a row on each input."

.PHONY: test
test: install-dev ## format, lint, types and the quick tests (under 8 minutes on 2 cores)
	$(VENV)/ruff format --check
	$(VENV)/ruff check
	$(VENV)/mypy
	$(QUICK_TESTS) $(MEASURED) --cov --cov-report=term:skip-covered --cov-fail-under=95
	$(QUICK_TESTS) $(addprefix --ignore=,$(MEASURED)) --durations=25

.PHONY: test-gpu
test-gpu: $(GPU_SETUP) ## the tests that need CUDA; PYTHON=python3 uses that Python as it is
	@cuda=$$($(GPU_PYTHON) -c 'import torch; print(torch.cuda.is_available())') || exit 1; \
	if [ "$$cuda" = True ]; then \
		$(GPU_PYTHON) -m pytest -m gpu; \
	else \
		echo "No CUDA device here: no GPU test was run."; \
	fi

.PHONY: fuzz
fuzz: install-dev ## fuzz requests, then images, tables, tars and addresses: 5 minutes each, SECONDS=N or INPUTS=N
	$(VENV)/python tests/support/fuzz_requests.py --seconds $(or $(SECONDS),300)
	$(VENV)/python tests/support/fuzz_inputs.py --keep out/fuzz --seed $(or $(SEED),0) \
		$(if $(INPUTS),--inputs $(INPUTS),--seconds $(or $(SECONDS),300))

.PHONY: bench-network
bench-network: install-dev ## speed, likeness, memory and start of the default network, beside peers: 10 minutes
	$(VENV)/python benchmarks/network.py --output benchmarks/results
	$(VENV)/python benchmarks/start_up.py --output benchmarks/results

.PHONY: bench-pipeline
bench-pipeline: install-dev bench-peers ## whole runs beside peers, with plots; 90 minutes, or OPTIONS="--parts throughput"
	$(VENV)/python -m benchmarks.pipeline --output benchmarks/results $(OPTIONS)
	$(VENV)/python docs/measurements.py

.PHONY: bench-check
bench-check: install-dev bench-peers ## compare a quick part with the committed ratios; fails at 15 % worse: 5 minutes
	$(VENV)/python -m benchmarks.pipeline.check $(OPTIONS)

.PHONY: bench-peers
bench-peers: install-dev
	@$(VENV)/python -m benchmarks.pipeline.peers.set_up

.PHONY: clients
clients: install-dev ## install and build the clients of the API that the slow tests run
	@$(VENV)/python tests/clients/set_up.py

.PHONY: runners
runners: install-dev ## fetch Flink, Spark, Beam's job servers, Prism, HDFS and a fake of GCS, for the slow tests
	@$(VENV)/python tests/runners/fetch.py

.PHONY: corpora
corpora: install-dev ## fetch image files that others test their decoders with, for the slow tests
	@$(VENV)/python tests/integration/corpora/archives.py

.PHONY: protos
protos: clients ## generate the messages of the gRPC API from protos/, for Python and TypeScript
	$(VENV)/python protos/generate.py
	$(VENV)/python clients/typescript/generate.py

.PHONY: lock
lock: python ## compute the locks anew after a change in pyproject.toml; UPGRADE=--upgrade for newest
	$(COMPILE) pyproject.toml --extra esrgan --extra heif --extra latent --extra serve --extra yaml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra esrgan --extra heif --extra latent --extra serve --extra yaml --group test --group reference \
		--constraints requirements.lock --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml --extra esrgan --extra heif --extra latent --extra gcs --extra s3 --extra azure --extra hdfs \
		--constraints requirements.lock --output-file pipelines/requirements.lock
	$(COMPILE) --group build --constraints requirements-dev.lock \
		--output-file .ci/requirements-build.lock
	$(COMPILE) --group installer --output-file .ci/requirements-installer.lock
	$(COMPILE) clients/python/requirements.in --output-file clients/python/requirements.lock
	$(COMPILE) tests/runners/requirements.in --output-file tests/runners/requirements.lock
	$(COMPILE) pyproject.toml benchmarks/pipeline/peers/requirements.in \
		--constraints requirements-dev.lock --override benchmarks/pipeline/peers/overrides.txt \
		--output-file benchmarks/pipeline/peers/requirements.lock

.PHONY: install
install: python
	@$(PYTHON) .ci/environment.py install requirements.lock

.PHONY: install-dev
install-dev: python
	@$(PYTHON) .ci/environment.py install requirements-dev.lock

.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Python 3.11 or newer is needed, and $(PYTHON) is not that." \
			"Name another: make PYTHON=python3.12"; exit 1; } >&2

.PHONY: clean
clean: ## remove what the commands made, .venv included
	rm -rf tests/integration/corpora/out tests/runners/out clients/python/.venv \
		clients/typescript/node_modules clients/typescript/out tests/clients/browser/node_modules tests/clients/browser/out
	rm -rf .venv out dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
