# make demo: pictures in a minute.  make test: all tests.  Each sets up what it needs, in venvs of its own.
PYTHON ?= python3
# Where the venvs go; set VENVS to keep them elsewhere between checkouts.
VENVS ?= .venvs
# MindSpore Lite 2.0.0 has wheels for Python 3.7 only.
PYTHON37 ?= $(shell scripts/find_python.sh 3.7)
MSLITE_VERSION = 2.0.0
# PaddleX and PaddleOCR on their onnxruntime engine: without paddlepaddle, half the size. PP-StructureV3 needs "ocr".
PYTHON311 ?= $(shell scripts/find_python.sh 3.11)
PADDLE_PACKAGES = 'paddlex[ocr]==3.7.2' paddleocr==3.7.0 onnxruntime
# Vendors' builds of ONNX Runtime take its place, so each has a venv of its own. These are for Python 3.11, too.
CANN_VERSION = 1.24.4
OPENVINO_VERSION = 1.24.1
# The one that goes with the torch of the extra "reference"; without CANN, it can only say what is missing.
TORCH_NPU_VERSION = 2.13.0
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
# For make test-gpu: a build for CUDA 12, with CUDA, cuDNN and TensorRT from wheels, and torch for benchmarks/gpu.py.
GPU_PACKAGES ?= 'onnxruntime-gpu[cuda,cudnn]==1.22.0' tensorrt-cu12 torch

DEMO = $(VENVS)/demo
TEST = $(VENVS)/test
MSLITE = $(VENVS)/mslite
PEERS = $(VENVS)/peers
DOCS = $(VENVS)/docs
PADDLE = $(VENVS)/paddle
CANN = $(VENVS)/cann
OPENVINO = $(VENVS)/openvino
TORCH_NPU = $(VENVS)/torch_npu
GPU = $(VENVS)/gpu
GPU_PACKAGES_FOLDER = $(abspath $(GPU))/lib/python3*/site-packages
GPU_LIBRARIES = $(GPU_PACKAGES_FOLDER)/nvidia/*/lib $(GPU_PACKAGES_FOLDER)/tensorrt_libs
# The interpreters and folders with vendors' packages, for the tests that need them.
VENDORS = MSLITE_PYTHON="$(wildcard $(abspath $(MSLITE))/bin/python)" \
	PADDLE_PYTHON="$(wildcard $(abspath $(PADDLE))/bin/python)" \
	CANN_PYTHON="$(wildcard $(abspath $(CANN))/bin/python)" \
	OPENVINO_PYTHON="$(wildcard $(abspath $(OPENVINO))/bin/python)" \
	TORCH_NPU_PATH="$(wildcard $(abspath $(TORCH_NPU)))" \
	SERVE_PADDLE_PYTHON="$(wildcard $(abspath $(VENVS))/serve-paddle/bin/python)"

.PHONY: demo test test-gpu tested lint types docs protocol smoke chromium bench bench-peers bench-serving bench-pipeline bench-paddle-serving clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/sd21/main.py --output out/demo

test: $(TEST)/.ready mslite paddle cann openvino torch_npu paddle_serving
	$(VENDORS) $(TEST)/bin/python -m pytest $(PYTEST_ARGS)

# On a machine with an NVIDIA GPU: the engine on gpu:0 with the CUDA and TensorRT providers, then a benchmark on it.
test-gpu: $(TEST)/.ready $(GPU)/.ready
	LD_LIBRARY_PATH="$(subst $(SPACE),:,$(wildcard $(GPU_LIBRARIES))):$$LD_LIBRARY_PATH" \
	GPU_PYTHON="$(abspath $(GPU))/bin/python" TESTED_ON="$(abspath $(GPU))/tested-on.json" \
	$(TEST)/bin/python -m pytest -m gpu tests/engines $(PYTEST_ARGS)
	$(TEST)/bin/python scripts/tested_on.py "$(abspath $(GPU))/tested-on.json"
	$(GPU)/bin/python benchmarks/gpu.py --steps 20

# README's table of what was tested, from the results of a run of the tests; test-gpu adds its row to it.
tested:
	TESTED_ON="$(abspath $(VENVS))/tested-on.json" $(MAKE) test
	$(TEST)/bin/python scripts/tested_on.py "$(abspath $(VENVS))/tested-on.json"

lint: $(TEST)/.ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/shellcheck scripts/*.sh .ci/run

types: $(TEST)/.ready
	$(TEST)/bin/mypy

# The documentation site, into site/. The variable silences a notice of the theme about its successor.
docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

# The descriptors of the gRPC service, of its .proto files.
protocol: $(TEST)/.ready
	scripts/make_protocol.sh $(TEST)/bin/python

# The installed package under each Python that is there.
smoke:
	scripts/smoke.sh $(VENVS)/smoke 3.10 3.12 3.13

# A browser for the tests of the server's page. Without one they are skipped, and say so; under CI they fail.
chromium:
	scripts/install_chromium.sh

bench: $(TEST)/.ready
	$(TEST)/bin/python benchmarks/transport.py
	$(TEST)/bin/python benchmarks/scheduling.py
	$(TEST)/bin/python benchmarks/memory.py
	$(TEST)/bin/python benchmarks/startup.py

# Side by side with other ways to do it; writes the section and the plot of benchmarks/README.md.
bench-peers: $(PEERS)/.ready mslite
	MSLITE_PYTHON="$(wildcard $(abspath $(MSLITE))/bin/python)" $(PEERS)/bin/python benchmarks/peers.py --save

$(PEERS)/.ready: pyproject.toml benchmarks/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --editable '.[cpu,convert]' --requirement benchmarks/peers-requirements.txt
	touch $@

# Servers side by side; writes the section and the plot of benchmarks/README.md. Needs wrk.
SERVING = $(VENVS)/serving
PEER_SERVERS = mosec triton uvicorn ray litserve paddle
bench-serving: $(SERVING)/.ready $(PEER_SERVERS:%=$(VENVS)/serve-%/.ready)
	VENVS=$(VENVS) $(SERVING)/bin/python benchmarks/serving.py --save

# The OCR example as a pipeline, by us, by Paddle Serving and by Ray Serve; writes a section of benchmarks/README.md.
bench-pipeline: $(SERVING)/.ready $(VENVS)/serve-paddle/.ready $(VENVS)/serve-ray/.ready
	VENVS=$(VENVS) $(SERVING)/bin/python benchmarks/pipeline.py --save

# The real Paddle Serving and ours with the services of examples/paddle_serving; prints the table of docs/paddle-serving.md.
bench-paddle-serving: $(SERVING)/.ready $(VENVS)/serve-paddle/.ready
	$(SERVING)/bin/pip install --quiet onnx
	SERVE_PADDLE_PYTHON="$(abspath $(VENVS))/serve-paddle/bin/python" $(SERVING)/bin/python benchmarks/paddle_serving.py

$(SERVING)/.ready: pyproject.toml
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/pip install --quiet --editable '.[cpu,serve,plot]'
	touch $@

# Each peer has a venv of its own. Triton's wheel wants Python 3.12 here, Paddle Serving 3.8 and old pins.
$(VENVS)/serve-%/.ready: SERVER_PYTHON = $(PYTHON311)
$(VENVS)/serve-triton/.ready: SERVER_PYTHON = $(shell scripts/find_python.sh 3.12)
$(VENVS)/serve-paddle/.ready: SERVER_PYTHON = $(shell scripts/find_python.sh 3.8)
$(VENVS)/serve-paddle/.ready: SERVER_PIP_OPTIONS = --no-deps
$(VENVS)/serve-%/.ready: benchmarks/servers/requirements/%.txt
	@test -n "$(SERVER_PYTHON)" || { echo "no Python for $* found: see the Makefile" >&2; exit 1; }
	$(SERVER_PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet $(SERVER_PIP_OPTIONS) --requirement $<
	touch $@

$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --editable '.[cpu,sd]'
	touch $@

$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --editable '.[docs]'
	touch $@

$(TEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet --editable '.[dev,reference]'
	touch $@

# The real MindSpore Lite. Without a Python 3.7 its tests are skipped, and say so; under CI they fail.
.PHONY: mslite
ifneq ($(PYTHON37),)
mslite: $(MSLITE)/.ready
$(MSLITE)/.ready: Makefile
	$(PYTHON37) -m venv $(MSLITE)
	$(MSLITE)/bin/pip install --quiet mindspore-lite==$(MSLITE_VERSION)
	touch $@
else
mslite:
	@echo "no Python 3.7 found (set PYTHON37): the tests with the real MindSpore Lite will not run" >&2
endif

# The real PaddleX and PaddleOCR. Without a Python 3.11 their tests are skipped, and say so; under CI they fail.
.PHONY: paddle
ifneq ($(PYTHON311),)
paddle: $(PADDLE)/.ready
$(PADDLE)/.ready: Makefile
	$(PYTHON311) -m venv $(PADDLE)
	$(PADDLE)/bin/pip install --quiet $(PADDLE_PACKAGES)
	touch $@
else
paddle:
	@echo "no Python 3.11 found (set PYTHON311): the tests with the real PaddleX and PaddleOCR will not run" >&2
endif

# The real onnxruntime-cann, as the extra brings it, and the real onnxruntime-openvino. Without a Python 3.11 their tests
# are skipped, and say so; under CI they fail. numpy2/ is off the path: a test sees what the wheel says to it.
.PHONY: cann openvino
ifneq ($(PYTHON311),)
cann: $(CANN)/.ready
$(CANN)/.ready: Makefile pyproject.toml
	$(PYTHON311) -m venv $(CANN)
	$(CANN)/bin/pip install --quiet --editable '.[cann]' onnxruntime-cann==$(CANN_VERSION)
	$(CANN)/bin/pip install --quiet --upgrade --target $(CANN)/numpy2 'numpy==2.*'
	touch $@

openvino: $(OPENVINO)/.ready
$(OPENVINO)/.ready: Makefile pyproject.toml
	$(PYTHON311) -m venv $(OPENVINO)
	$(OPENVINO)/bin/pip install --quiet --editable . onnxruntime-openvino==$(OPENVINO_VERSION)
	touch $@
else
cann openvino:
	@echo "no Python 3.11 found (set PYTHON311): the tests with the real onnxruntime-$@ will not run" >&2
endif

# The real Paddle Serving. Without a Python 3.8 the tests with it are skipped, and say so.
.PHONY: paddle_serving
ifneq ($(shell scripts/find_python.sh 3.8),)
paddle_serving: $(VENVS)/serve-paddle/.ready
else
paddle_serving:
	@echo "no Python 3.8 found: the tests with the real Paddle Serving will not run" >&2
endif

# The real torch-npu, in a folder apart: with it, and without CANN, torch cannot be imported.
.PHONY: torch_npu
torch_npu: $(TORCH_NPU)/.ready
$(TORCH_NPU)/.ready: Makefile $(TEST)/.ready
	$(TEST)/bin/pip install --quiet --no-deps --upgrade --target $(TORCH_NPU) torch-npu==$(TORCH_NPU_VERSION)
	touch $@

$(GPU)/.ready: Makefile pyproject.toml
	$(PYTHON311) -m venv $(GPU)
	$(GPU)/bin/pip install --quiet --editable . $(GPU_PACKAGES)
	touch $@

clean:
	rm -rf $(VENVS) out site .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
