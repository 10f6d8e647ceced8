# Needs Python 3.11 or newer and make; everything else goes into .venv.
# PYTHON=/path/to/python3.12 chooses the interpreter; ARGS="-k limiter" is passed on to demo, demo-flask, demo-grpc, test, soak and bench;
# EXAMPLES=2000 shortens the state machines of soak.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?=
ARGS ?=
EXAMPLES ?= 20000
python := .venv/bin/python
# What pip and build report on the way is shown only when they fail.
pip := tools/quietly $(python) -m pip --disable-pip-version-check --no-input

.PHONY: help demo demo-flask demo-grpc test soak lint format types imports names reference bench bench-smoke workers-plot mutation build smoke check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/.demo ## watch a service lose its dependency, slow down and climb back (under 90 s)
	@$(python) examples/asgi_app/demo.py $(ARGS)

demo-flask: .venv/.demo-flask ## the same with the service in Flask under gunicorn
	@$(python) examples/flask_app/demo.py $(ARGS)

demo-grpc: .venv/.demo-grpc ## the same with a hop over gRPC, to an inventory that breaks
	@$(python) examples/grpc_service/demo.py $(ARGS)

# More than there are processors of the smallest machine: many tests wait for servers and for each other.
test: .venv/.test ## run the tests
	@$(python) -m pytest --numprocesses 3 --dist loadfile $(ARGS)

soak: .venv/.test ## run the long form of the state machines, floods, threads and the virtual week (over an hour)
	@SOAK_EXAMPLES=$(EXAMPLES) $(python) -m pytest -m soak -o faulthandler_timeout=0 -p tests.soak.report $(ARGS)

lint: .venv/.test ## check style and formatting
	@$(python) -m ruff check
	@$(python) -m ruff format --check

format: .venv/.test ## put style and formatting right where a machine can
	@$(python) -m ruff check --fix --exit-zero
	@$(python) -m ruff format

types: .venv/.test ## check the types
	@$(python) -m mypy

imports: .venv/.test ## check who imports whom
	@$(python) tools/check_imports.py

names: .venv/.test ## write the list of public names anew, after a change that was meant
	@$(python) tools/public_names.py --write

reference: .venv/.test ## write the reference of the configuration file and its JSON Schema anew, after a change that was meant
	@$(python) tools/config_reference.py --write

bench: .venv/.test .venv/.bench ## measure all layers beside a hand-fused floor and their peers, following a file, shared stores, pools and batches
	@$(python) -m benchmarks $(ARGS)
	@$(python) benchmarks/reload.py
	@$(python) benchmarks/stores.py
	@$(python) benchmarks/host_store.py
	@$(python) benchmarks/workers.py
	@$(python) benchmarks/batch.py

workers-plot: .venv/.demo ## draw what a step load and a spike do to a worker pool, into docs/
	@$(python) tools/worker_load.py

bench-smoke: .venv/.test .venv/.bench ## the short form of bench, held to wider bounds (under a minute)
	@$(python) -m benchmarks --smoke $(ARGS)

mutation: .venv/.test .venv/.mutation ## change the core in one place at a time and see that a test notices (15 to 30 minutes)
	@rm -rf mutants
	@CI=1 .venv/bin/mutmut run --max-children 2
	@$(python) tools/mutation_report.py

build: .venv/.test ## build the wheel and the source distribution into dist/
	@rm -rf dist
	@tools/quietly $(python) -m build --outdir dist
	@$(python) tools/check_wheel.py dist

smoke: build ## install the built wheel away from the checkout and guard an app with it
	@tools/smoke-wheel dist $(python)

check: lint types imports test smoke ## pass every gate

clean: ## remove everything that make made
	rm -rf .venv build dist demo-out benchmarks/out mutants *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp an extra, so that `make demo` does not wait for the tools that only tests need.
.venv/.%: pyproject.toml constraints.txt | $(python)
	@echo "installing into .venv what its extra '$*' names" >&2
	@$(pip) install --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(python):
	@found=$$(PYTHON='$(PYTHON)' tools/find-python) && { "$$found" -m venv --clear .venv || { rm -rf .venv; exit 1; }; }
