# Everything runs in a virtual environment in .venv, made by the first target that needs it.

BIN := .venv/bin
READY := .venv/.ready
GIGABYTES := 5
PROCESSES := 2
NETWORKS := lenet5 alexnet_bvlc vgg11 googlenet resnet50 densenet121
PYTEST = $(BIN)/python -m pytest -q -n $(PROCESSES) --dist worksteal
BACKENDS := torch keras-tensorflow tf1 onnx-torch onnx-keras onnx-tf1

# Some containers forbid Python to keep what it has compiled: each of some 400 processes of the tests would compile anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help parity explore test test-all times mutants no-false-alarms lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

parity: $(READY) ## Set up, then prove one network of each family in every backend
	@$(BIN)/triptych parity $(NETWORKS) $(addprefix --backend ,$(BACKENDS))

explore: $(READY) ## Set up, then write the side-by-side pages into explorer/
	@$(BIN)/triptych explore

test: $(READY) ## Set up, then run the tests, lint and type checks among them: minutes
	@$(PYTEST)

test-all: $(READY) ## Before a release: the slow tests too, every mutant and every network whole
	@$(PYTEST) -m 'slow or not slow'

times: $(READY) ## Run the tests, and say which files and which tests took how much processor time
	@$(PYTEST) -p parity_tests.times

mutants: $(READY) ## Inject porting mistakes into the implementations; each must be caught, placed and named
	@$(BIN)/python -m parity_tests.mutants

no-false-alarms: $(READY) ## Judge correct implementations on 240 random combinations; none may be accused
	@$(BIN)/python -m pytest -q -m slow parity_tests/test_no_false_alarms.py

lint: $(READY) ## Check style and types
	@echo "Checking style and types ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## Remove the virtual environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -r {} +

# pip is the user's own, configuration and all: set PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS … as you need.
# On a disk that is full it leaves packages half installed, and takes them for whole the next time: a new start is safe.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	for candidate in $(PYTHON) python3 python3.11 python3.12 python3.13 python; do \
		if "$$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
		then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Triptych needs Python 3.11, 3.12 or 3.13 with its venv module, and found none;" \
			"install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if [ ! -x $(BIN)/triptych ] && [ "$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }')" -lt $(GIGABYTES) ]; then \
		echo "Triptych needs $(GIGABYTES) GB of free disk for its virtual environment here ($$(pwd)); free some." >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$python" --version): the frameworks are large, the first time takes minutes ..."; \
	"$$python" -m venv .venv || { \
		echo "Could not make a virtual environment with $$python; on Debian, install python3-venv." >&2; exit 1; }; \
	$(BIN)/python -m pip install $(if $(wildcard $(BIN)/triptych),--quiet) -c constraints.txt -e '.[torch,keras,jax,tf1,onnx,prove,webgpu,dev]' || { \
		[ -x $(BIN)/triptych ] || rm -rf .venv; \
		echo "Could not install the packages: see pip's message above. Without network, point pip to a local index" \
			"(PIP_INDEX_URL or PIP_FIND_LINKS); then run make again. pip keeps what it has downloaded." >&2; exit 1; }; \
	touch $(READY)
