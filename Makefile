# One line of help a target: `make` or `make help` prints them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

# Empty means that Python keeps compiled modules; else every process that tests start would compile what it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup client demo test check coverage bench bench-attention soak simulate fuzz fuzz-guided interop smoke-modal up lock image-lock replay-image screenshots openapi licences clean compare compare-editor

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: .venv/.installed ## Make .venv and install the locked requirements (no-op when fresh)

.venv/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 setup")'
	@echo "the first time, this downloads what requirements/dev.txt names: a minute or more"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

client: setup ## Build the Python client, comfyui-modal-client: wheel and source distribution in dist/
	cd client && ../$(BIN)/python -m hatchling build -d ../dist

demo: setup ## Run the main job here: S3 server, API, worker, two workflows, files in outputs/
	$(BIN)/python -m infra.demo

check: setup ## Lint, types, import contracts, dead code, unused requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture
	$(BIN)/vulture --config tests/supply/vulture.toml
	$(BIN)/deptry .
	cd client && ../$(BIN)/deptry src

test: setup ## Everything CI runs: unit, contract and acceptance tests, and make check beside them
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; \
	{ $(MAKE) --no-print-directory check >"$$log" 2>&1 || { cat "$$log"; exit 1; }; } & checking=$$!; \
	$(BIN)/pytest; failed=$$?; wait $$checking && cat "$$log" || failed=1; exit $$failed

coverage: setup ## The tests and the demo, and the lines and branches that they do not reach
	rm -rf .coverage
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage run -m infra.demo
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup .bench/.installed ## Measure everything in docs/explanation/performance.md anew and write it there
	$(BIN)/python -m tests.bench

.bench/.installed: requirements/bench.txt
	$(PYTHON) -m venv .bench
	.bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

bench-attention: ## SageAttention and torch's on this GPU: make bench-attention PYTHON_WITH_TORCH=…
	$(or $(PYTHON_WITH_TORCH),$(PYTHON)) tests/bench/attention.py

soak: setup ## Long versions of tests, stores on the S3 server, then 20,000 mixed requests and the memory they leave: make soak REQUESTS=20000
	$(BIN)/pytest --long -m "chaos or soak"
	$(BIN)/python -m tests.soak --requests $(or $(REQUESTS),20000)

compare: setup ## Your ComfyUI and this project on each graph of a folder: make compare COMFYUI_DIR=… COMFYUI_PYTHON=… GRAPHS=FOLDER
	$(BIN)/python -m tests.compare $(GRAPHS) $(if $(COMFYUI_DIR),--comfyui-dir $(COMFYUI_DIR) --comfyui-python $(COMFYUI_PYTHON)) \
		$(if $(COMFYUI_ARGS),--comfyui-args '$(COMFYUI_ARGS)') $(if $(BASE),--base $(BASE)) $(if $(REPORT),--report $(REPORT)) \
		$(if $(LIMIT_S),--limit-s $(LIMIT_S))

compare-editor: setup ## Editor files converted by us and by ComfyUI's frontend (needs playwright, Chromium): make compare-editor OBJECT_INFO=FILE EXPECTED=FOLDER, or FILES=FOLDER CUSTOM_NODES=FOLDER
	$(BIN)/python -m tests.compare_editor $(if $(OBJECT_INFO),--object-info $(OBJECT_INFO)) $(if $(EXPECTED),--expected $(EXPECTED)) \
		$(if $(CHROMIUM),--chromium $(CHROMIUM)) $(if $(RECORD),--record) \
		$(if $(FILES),--files $(FILES)) $(if $(CUSTOM_NODES),--custom-nodes $(CUSTOM_NODES))

simulate: setup ## The job state machine under faults, in virtual time: make simulate SEEDS=20000
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),20000)

fuzz: setup ## Generated requests to every operation of the API: make fuzz CASES=24000
	$(BIN)/python -m tests.fuzz --cases $(or $(CASES),24000)

fuzz-guided: setup ## Inputs grown by what they reach, with atheris: make fuzz-guided TARGET=graph SECONDS=60
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	mkdir -p .fuzz && cd .fuzz && PYTHONPATH=.. ../$(BIN)/python -m tests.fuzz.guided $(or $(TARGET),graph) -max_total_time=$(or $(SECONDS),60)

interop: setup .interop/.installed ## Webhooks and Comfy API v2 as other people's libraries see them (needs node and npm): make interop SUITE=FILE
	npm install --prefix tests/interop --no-package-lock --no-audit --no-fund --silent
	$(BIN)/python -m tests.interop.requests > tests/interop/requests.json
	sed -n '/^```js$$/,/^```$$/p' docs/how-to/webhooks.md | sed '/^```/d' > tests/interop/receiver.mjs
	node tests/interop/check.mjs tests/interop/requests.json tests/interop/receiver.mjs
	$(BIN)/python -m tests.interop.comfy $(if $(SUITE),--suite $(abspath $(SUITE)))

.interop/.installed: requirements/interop.txt
	$(PYTHON) -m venv .interop
	.interop/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/interop.txt
	@touch $@

smoke-modal: setup ## A deployment on Modal, tried from outside (needs a token and COMFYUI_MODAL_API_KEY; costs GPU seconds)
	$(BIN)/python -m tests.smoke

up: setup ## Serve the API on this machine until Ctrl-C, data in .local/: make up PORT=8001
	$(BIN)/comfyui-modal up --data .local $(if $(PORT),--port $(PORT))

openapi: setup ## Write docs/reference/openapi.json anew from the code
	$(BIN)/comfyui-modal openapi --out docs/reference/openapi.json

screenshots: setup ## Take the pictures of the pages in docs/ui/ anew (needs Chromium)
	$(BIN)/python -m tests.screenshots

licences: setup ## Write docs/reference/licences.md anew from the installed packages
	$(BIN)/python -m tests.supply.licences > docs/reference/licences.md

lock: setup ## Resolve requirements anew into requirements/ (needs uv)
	uv pip compile $(LOCK) pyproject.toml -o requirements/base.txt
	uv pip compile $(LOCK) --group dev pyproject.toml -o requirements/dev.txt
	uv pip compile $(LOCK) --group fuzz -o requirements/fuzz.txt
	uv pip compile $(LOCK) --group bench -o requirements/bench.txt
	uv pip compile $(LOCK) --group interop -o requirements/interop.txt

image-lock: setup ## Resolve the image's Python packages anew (needs uv, and git or IMAGE_SOURCES=FOLDER): make image-lock UPGRADE=1
	$(BIN)/python -m infra.make_image_lock $(if $(UPGRADE),--upgrade)

replay-image: setup ## Run the image's recipe and its engine here, 9 GB: make replay-image INTO=FOLDER PYTHON=python3.12 SOURCES=FOLDER
	$(BIN)/python -m tests.replay --into $(INTO) --python $(or $(filter-out python3,$(PYTHON)),python3.12) $(if $(SOURCES),--sources $(SOURCES)) $(REPLAY)

clean: ## Remove .venv, caches and local data
	rm -rf .venv .bench .interop .local outputs .mypy_cache .ruff_cache .pytest_cache .coverage .hypothesis
