# make demo: train a DETR on generated data and look at it.  make test: run the tests.
# Both make their own environment in .venv first; PYTHON chooses the interpreter (3.10 to 3.12).
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
MIM := PATH="$(BIN):$$PATH" $(BIN)/mim
DEMO := work_dirs/demo
DEMO_CONFIG := configs/detr/detr_tiny_shapes.py
PANOPTIC_CONFIG := configs/detr/detr_tiny_panoptic_shapes.py
OPS := $(CURDIR)/.venv-ops/bin
OPENMMLAB := $(CURDIR)/.venv-openmmlab/bin
# One worker a core of a small machine, each with one thread. An idle worker takes tests over from the other.
PARALLEL := -n 2 --dist worksteal
# mmcv with its compiled operators, by the versions that it was compiled for; the folder may go at any time.
WHEELS := $(HOME)/.cache/mmdet_detr/wheels

.PHONY: help setup demo demo-panoptic test test-all test-page coverage lint format ops test-ops test-openmmlab clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 18

setup: $(VENV)/.ready  ## make .venv with the OneDL stack and this package (editable)

# torch first and by its version: another package would pull in some other build of it
$(VENV)/.ready: setup.py constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[onedl,tests,export,openvino,peers,lint]'
	touch $@

data/shapes/annotations/panoptic_val.json: | setup
	$(MIM) run mmdet_detr make_shapes data/shapes

demo: setup data/shapes/annotations/panoptic_val.json  ## train, test and draw on generated data, about 8 minutes
	rm -rf $(DEMO)
	$(MIM) train mmdet_detr $(DEMO_CONFIG) --gpus 0 --work-dir $(DEMO)
	$(MIM) test mmdet_detr $(DEMO_CONFIG) --gpus 0 --checkpoint $$(cat $(DEMO)/last_checkpoint) --work-dir $(DEMO)
	$(MIM) run mmdet_detr report $(DEMO)
	@echo 'Next: mim run mmdet_detr page $(DEMO)   # try it on pictures of your own in the browser'

demo-panoptic: setup data/shapes/annotations/panoptic_val.json  ## the same with masks, about 8 minutes
	rm -rf $(DEMO)-panoptic
	$(MIM) train mmdet_detr $(PANOPTIC_CONFIG) --gpus 0 --work-dir $(DEMO)-panoptic
	$(MIM) test mmdet_detr $(PANOPTIC_CONFIG) --gpus 0 --checkpoint $$(cat $(DEMO)-panoptic/last_checkpoint) \
		--work-dir $(DEMO)-panoptic
	$(MIM) run mmdet_detr report $(DEMO)-panoptic
	@echo 'Next: mim run mmdet_detr page $(DEMO)-panoptic'

test: setup  ## the tests but the slow ones and those that need operators
	$(BIN)/pytest $(PARALLEL)

test-all: $(VENV)/.page test-ops  ## all tests
	$(BIN)/pytest $(PARALLEL) -m ''

test-page: $(VENV)/.page  ## the tests of the page, in Debian's chromium
	$(BIN)/pytest tests/page tests/cli/test_page.py

$(VENV)/.page: $(VENV)/.ready
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[page,page-tests]'
	command -v chromium || { apt-get update -qq && apt-get install -qq -y chromium; } \
		|| echo "no chromium: the tests in a browser are skipped"
	touch $@

coverage: $(VENV)/.page  ## the tests as in "test", with the lines of the package that none of them runs
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term-missing

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without --no-cache-dir pip would keep the wheel too, and give it to environments that are to have no operators.
.venv-ops/.ops: setup.py constraints.txt
	$(PYTHON) -m venv --clear .venv-ops
	$(OPS)/python -m pip install -q -c constraints.txt --upgrade pip setuptools wheel
	$(OPS)/python -m pip install -q -c constraints.txt torch ninja psutil
	set -e; wheels=$(WHEELS)/$$($(OPS)/python -c "$$WHEEL_FOLDER"); \
	if ! ls $$wheels/*.whl > /dev/null 2>&1; then \
		echo "mmcv's operators are compiled against torch: about 8 minutes on 2 cores, once"; \
		rm -rf $$wheels.part; \
		MMCV_WITH_OPS=1 MAX_JOBS=2 $(OPS)/python -m pip wheel -q -c constraints.txt --no-build-isolation --no-deps \
			--no-cache-dir --wheel-dir $$wheels.part onedl-mmcv; \
		mkdir -p $$wheels; mv $$wheels.part/*.whl $$wheels; rmdir $$wheels.part; \
	fi; \
	$(OPS)/python -m pip install -q --no-deps $$wheels/*.whl
	$(OPS)/python -m pip install -q -c constraints.txt -e '.[onedl,tests,peers]'
	touch $@

define WHEEL_FOLDER
import importlib.metadata, platform, re, sys
mmcv = re.search('onedl-mmcv==(.+)', open('constraints.txt').read())[1]
torch = importlib.metadata.version('torch')
print(f'mmcv-{mmcv}_torch-{torch}_python-{sys.version_info[0]}.{sys.version_info[1]}_{platform.machine()}')
endef
export WHEEL_FOLDER

ops: .venv-ops/.ops  ## make .venv-ops: as .venv, with mmcv's compiled operators

test-ops: ops  ## the tests that need compiled operators, in .venv-ops
	$(OPS)/pytest -m operators

.venv-openmmlab/.ops:
	@echo "mmcv's operators are compiled against torch: about 10 minutes on 2 cores, once"
	$(PYTHON) -m venv --clear .venv-openmmlab
	$(OPENMMLAB)/python -m pip install -q --upgrade pip wheel 'setuptools<70'
	$(OPENMMLAB)/python -m pip install -q torch==2.1.2 'numpy<2' 'setuptools<70' ninja psutil
	MMCV_WITH_OPS=1 MAX_JOBS=2 $(OPENMMLAB)/python -m pip install -q --no-build-isolation --no-deps mmcv==2.1.0
	touch $@

test-openmmlab: .venv-openmmlab/.ops  ## the tests as in "test", on the OpenMMLab stack in .venv-openmmlab
	rm -rf build
	$(OPENMMLAB)/python -m pip install -q mmdet==3.3.0 mmengine==0.10.7 '.[openmmlab,tests]' \
		mmpretrain==1.2.0 torchvision==0.16.2
	rm -rf build
	$(OPENMMLAB)/pytest $(PARALLEL)

clean:  ## remove environments, generated data and runs
	rm -rf .venv .venv-ops .venv-openmmlab data/shapes work_dirs
