# RAMSES: set-up, demo and tests. `make` alone lists the commands.

VENV := .venv
STAMP := $(VENV)/.ramses-installed
BASE_PYTHON ?= python3
DISK_GB ?= 10

DEMO_DATA ?= datasets/demo
DEMO_OUTPUT ?= output/demo
DEMO_SYNTH_OPTIONS ?=
DEMO_TRAIN_OPTIONS ?=

# `make ... PYTHON=/path/to/python` uses that environment as it is; otherwise .venv is made and kept ready.
ifeq ($(origin PYTHON),command line)
PY := $(PYTHON)
READY := given-python
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := $(VENV)/bin/python
READY := $(STAMP)
endif

# Usage: command || $(STOP) "what is wrong; what to do"
STOP = sh -c 'echo "error: $$0" >&2; exit 1'

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean given-python

help:
	@echo "make demo    render a data set, train on it, evaluate and predict (set-up included)"
	@echo "make test    run the test suite (set-up included)"
	@echo "make lint    check the code with ruff"
	@echo "make setup   create $(VENV) with everything in it; a second run installs nothing"
	@echo "make clean   remove caches and build leftovers ($(VENV), datasets/ and output/ stay)"
	@echo
	@echo "Add PYTHON=/path/to/python to use an environment that already has Detectron2; nothing is installed then."
	@echo "BASE_PYTHON=python3.12 chooses the Python that $(VENV) is made with (3.11 or newer)."

setup: $(READY)

# Detectron2 0.6 and fvcore warn of torch.jit.script at every start; a newcomer cannot do anything about it
demo: export PYTHONWARNINGS := ignore::FutureWarning
demo: $(READY)
	@test -f $(DEMO_DATA)/split.json || $(PY) tools/prepare_data.py synth --output $(DEMO_DATA) $(DEMO_SYNTH_OPTIONS)
	@rm -f $(DEMO_OUTPUT)/last_checkpoint $(DEMO_OUTPUT)/model_*.pth  # train anew
	$(PY) tools/train_net.py --config-file configs/ramses_demo.yaml OUTPUT_DIR $(DEMO_OUTPUT) $(DEMO_TRAIN_OPTIONS)
	$(PY) tools/predict.py --config-file $(DEMO_OUTPUT)/config.yaml --weights $(DEMO_OUTPUT)/model_final.pth \
		--input 'ramses://$(DEMO_DATA)/split.json#valid' --output $(DEMO_OUTPUT)/predictions --force
	@echo && cat $(DEMO_OUTPUT)/evaluation.txt && echo
	@echo "Every stone with mask, class and mass:    $(DEMO_OUTPUT)/predictions/overlays"
	@echo "One row per stone:                        $(DEMO_OUTPUT)/predictions/annotations.csv"
	@echo "The table above:                          $(DEMO_OUTPUT)/evaluation.txt"

# Several processes where pytest-xdist is at hand, one thread each
test: export OMP_NUM_THREADS := 1
test: $(READY)
	$(PY) -m pytest -q $$($(PY) -c "import xdist" 2>/dev/null && echo "-n auto --maxprocesses 8 --dist loadfile") tests

lint: $(READY)
	$(PY) -m ruff check .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find ramses_d2 tests tools -type d -name __pycache__ -prune -exec rm -rf {} +

given-python:
	@reason=$$($(PY) -W ignore -c "import cv2, detectron2.engine, faster_coco_eval, fvcore, matplotlib, pandas, \
	pycocotools, ramses_d2, scipy, skimage, tabulate, timm, torch, torchvision, tqdm" 2>&1) \
	|| $(STOP) "$(PY) is not ready ($$(echo "$$reason" | tail -n 1)); install that or run make without PYTHON="

# The stamp is written last: an interrupted set-up is taken up again where it stopped.
$(STAMP): requirements.txt setup.py tools/install_detectron2.py
	@command -v $(BASE_PYTHON) >/dev/null \
	|| $(STOP) "$(BASE_PYTHON) not found; install Python 3.11 or newer, or name it: make setup BASE_PYTHON=..."
	@$(BASE_PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	|| $(STOP) "$(BASE_PYTHON) is $$($(BASE_PYTHON) --version 2>&1 | tail -n 1); the locked requirements need 3.11 or newer: make setup BASE_PYTHON=..."
	@$(BASE_PYTHON) -c "import ensurepip, venv" 2>/dev/null \
	|| $(STOP) "$(BASE_PYTHON) has no venv module; install it (on Debian and Ubuntu: the package python3-venv)"
	@ls -d $(VENV)/lib/python*/site-packages/torch >/dev/null 2>&1 \
	|| $(BASE_PYTHON) -c "import shutil, sys; sys.exit(shutil.disk_usage('.').free < $(DISK_GB) * 1e9)" \
	|| $(STOP) "less than $(DISK_GB) GB free on this disk; free some space (DISK_GB=0 skips this check)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv $(VENV) \
	|| $(STOP) "cannot create $(VENV) (the reason is above)"
	@reason=$$($(PY) -m pip download -q --retries 1 --no-deps -d $(VENV)/index-check "pip>=23.2,<26" 2>&1) \
	|| $(STOP) "pip cannot reach its package index ($$(echo "$$reason" | tail -n 1)); check the network and pip's settings"
	@rm -rf $(VENV)/index-check
	@echo "Installing into $(VENV): some 6 GB, a few minutes ..."
	@$(PY) -m pip install -q "pip>=23.2,<26" $$(grep -E "^(setuptools|wheel)==" requirements.txt) \
	|| $(STOP) "pip could not install pip, setuptools and wheel (the reason is above); make setup tries again"
	@$(PY) -m pip install -q --no-build-isolation -r requirements.txt \
	|| $(STOP) "pip could not install requirements.txt (the reason is above); make setup tries again"
	@$(PY) tools/install_detectron2.py
	@$(PY) -m pip install -q --no-deps --no-build-isolation -e . \
	|| $(STOP) "pip could not install ramses_d2 (the reason is above); make setup tries again"
	@touch $@
	@echo "The set-up is complete."
