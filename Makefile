# Every target works from a fresh clone: it creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-next test-slow test-benchmarks test-others lint format generate docs docs-test benchmark clean

demo: $(VENV)/demo.installed
	$(BIN)/python examples/quickstart.py

test: $(VENV)/test.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

# Against pre-releases of Keras and TensorFlow, where there are some, in a .venv-next of its own.
# Not part of CI: it says early what the next versions change.
test-next:
	$(PYTHON) -m venv .venv-next
	.venv-next/bin/python -m pip install --quiet --editable ".[test]"
	.venv-next/bin/python -m pip install --quiet --upgrade --pre keras tensorflow
	.venv-next/bin/python -m pip list | grep -iE "^(keras|keras-nightly|tensorflow) "
	.venv-next/bin/python -m pytest --numprocesses=auto --dist=worksteal

test-slow: $(VENV)/test.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m slow

# The slow tests of the benchmarks alone.
test-benchmarks: $(VENV)/test.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m slow tests/benchmarks

# The other slow tests and those of the documentation, in one session.
test-others: $(VENV)/test.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m "slow or docs" \
		--ignore=tests/benchmarks

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/test.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Lists of components, docs/methods.md and the guides as notebooks; the tests say whether they are up to date.
generate: $(VENV)/test.installed
	$(BIN)/python tools/namespaces.py
	$(BIN)/python -m docs.methods
	$(BIN)/python docs/notebooks.py

# The site, in site/. Links, anchors and docstrings are checked: a warning is an error.
# Its tools read the package without importing it, so that they have an environment of their own.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --quiet

# Every code block of the README and the site, at tiny size.
docs-test: $(VENV)/test.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m docs tests/docs

benchmark: $(VENV)/test.installed
	$(BIN)/python -m benchmarks.speed.step_overhead

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

.venv-docs/installed: docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --requirement docs/requirements.txt
	touch $@

$(VENV)/%.installed: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) .venv-docs .venv-next build site *.egg-info
