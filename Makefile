# RLHF from scratch. Each target makes its own environment first (.venv, once, about a minute).
#
#   make course     the four notebooks in order, headless; settings: make course RLHF_TRACK=sentiment RLHF_SEED=1,
#                   or the same as environment variables; NAME=mine for the folder runs/mine;
#                   STAGES=reward,ppo for these notebooks alone
#   make lab        JupyterLab on localhost
#   make restore    put the answers that passed their checks, kept in my/, back into the notebooks
#   make demo       a page to talk to a run's models, on localhost; NAME=mine for the folder runs/mine
#   make space      the same as a folder for a Hugging Face Space: runs/mine/space
#   make test       lint and tests
#   make test-all   the slow tests too
#   make notebooks  refresh the taught cells, run all notebooks (bonus/ too), save their outputs
#   make data       write the embedded data again, bit for bit
#   make bench      ours against transformers, side by side: docs/results.md; make bench BENCH_ARGS=--with-trl also TRL
#   make evidence   whole courses of ten seeds a track, then the other methods, over-optimisation and the doctor
#                   on those of tldr, many hours: docs/results.md; goes on where it was stopped;
#                   make evidence EVIDENCE_ARGS="--tracks tldr --seeds 0-2" runs some of the courses alone
#   make gpu        everything once on a GPU: gpu.json; make gpu GPU_ARGS=--dry with tiny models on the CPU
#   make hosted     the notebooks as on Colab and on Kaggle: their package versions, fetched alone
#   make video      the walkthrough in docs/video, from the committed notebooks; VIDEO=3-PPO for one film,
#                   VOICE=voice.onnx for another piper voice, PACE=1.2 to speak more slowly
#   make browser    the four notebooks in Chromium, every widget used, pictures in runs/browser: minutes;
#                   make browser CHROMIUM=path BROWSER_ARGS="--notebooks 3-PPO"
#   make clean      remove environments and caches (runs/ stays)
#
# Linux without a GPU: make course TORCH_INDEX=https://download.pytorch.org/whl/cpu
# saves 3 GB of CUDA libraries.

PYTHON ?= python3
VENV ?= .venv
NAME ?=
STAGES ?=
PYTEST_ARGS ?=
LAB_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
EVIDENCE_ARGS ?=
VIDEO ?=
VOICE ?=
PACE ?=
BROWSER_ARGS ?=
CHROMIUM ?=

ifeq ($(OS),Windows_NT)
PY := $(VENV)/Scripts/python.exe
else
PY := $(VENV)/bin/python
endif
# Bytecode is compiled where it is imported: compiling all packages takes another minute.
INSTALL := $(PY) -m pip install -qq --no-compile --disable-pip-version-check
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev
VIDEO_STAMP := $(VENV)/.installed-video
BROWSER_STAMP := $(VENV)/.installed-browser

.PHONY: help course restore demo space test test-all lab notebooks data bench evidence gpu hosted \
	video browser clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

course: $(STAMP)
	@$(PY) -m helpers course $(if $(NAME),--out "runs/$(NAME)") $(if $(STAGES),--stages $(STAGES))

restore: $(STAMP)
	@$(PY) -m helpers restore

test: $(DEV_STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-all:
	@$(MAKE) --no-print-directory test PYTEST_ARGS="-m '' $(PYTEST_ARGS)"

lab: $(STAMP)
	@$(PY) -m jupyterlab --ServerApp.ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

demo space: $(DEMO_STAMP)
	@$(PY) -m helpers $@ $(if $(NAME),"runs/$(NAME)") $(DEMO_ARGS)

notebooks: $(STAMP)
	@$(PY) -m tools.notebooks sync
	@$(PY) -m tools.notebooks run
	@$(PY) -m tools.notebooks check

data: $(STAMP)
	@$(PY) -m data.tldr.build
	@$(PY) -m data.sentiment.build
	@$(PY) -m data.advice.build

bench: $(STAMP)
	@$(PY) -m benchmarks $(BENCH_ARGS)
	@$(PY) -m tools.bench_table

evidence: $(STAMP)
	@$(PY) -m benchmarks.evidence $(EVIDENCE_ARGS)
ifeq ($(EVIDENCE_ARGS),)
	@$(PY) -m benchmarks.alternatives
	@$(PY) -m benchmarks.overoptimisation
	@$(PY) -m benchmarks.doctor
endif

# On a machine that has torch and its friends already, nothing is installed.
gpu:
	@if $(PYTHON) -c 'import matplotlib, pytest, safetensors, tiktoken, torch, transformers' 2>/dev/null; \
	then $(PYTHON) -m benchmarks.gpu $(GPU_ARGS); \
	else $(MAKE) --no-print-directory $(DEV_STAMP) && $(PY) -m benchmarks.gpu $(GPU_ARGS); fi

hosted: $(STAMP)
	@$(PY) -m tools.hosted

video: $(VIDEO_STAMP)
	@$(PY) -m tools.video build $(VIDEO) $(if $(VOICE),--voice "$(VOICE)") $(if $(PACE),--pace $(PACE))

browser: $(BROWSER_STAMP)
	@$(PY) -m tools.browser $(if $(CHROMIUM),--chromium "$(CHROMIUM)") $(BROWSER_ARGS)

clean:
	rm -rf .venv .venv-ci .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +

$(STAMP): requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed ($(PYTHON))"; exit 1; }
	@echo "Installing the course into $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	@$(INSTALL) "$$(grep '^torch==' constraints.txt)" --index-url "$(TORCH_INDEX)"
endif
	@$(INSTALL) -r requirements.txt -c constraints.txt
	@$(PY) -c 'open("$@", "w").close()'

$(DEMO_STAMP): $(STAMP) requirements-demo.txt
	@echo "Installing what the demo needs on top"
	@$(INSTALL) -r requirements-demo.txt -c constraints.txt
	@$(PY) -c 'open("$@", "w").close()'

$(DEV_STAMP): $(STAMP) requirements-dev.txt
	@echo "Installing what the tests need on top"
	@$(INSTALL) -r requirements-dev.txt -c constraints.txt
	@$(PY) -c 'open("$@", "w").close()'

$(VIDEO_STAMP): $(STAMP) requirements-video.txt
	@echo "Installing what the films need on top"
	@$(INSTALL) -r requirements-video.txt -c constraints.txt
	@$(PY) -c 'open("$@", "w").close()'

$(BROWSER_STAMP): $(STAMP) requirements-browser.txt
	@$(INSTALL) -r requirements-browser.txt -c constraints.txt
	@$(PY) -c 'open("$@", "w").close()'
