# The project's commands; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint rehearse evaluate

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.development: requirements-dev.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "$$($(PYTHON) --version) is not supported; give Python 3.11 to 3.13, for example: make demo PYTHON=python3.12" >&2; exit 2; }
	@echo "Installs into $(VENV): some minutes, and on Linux several GB. Nothing is said until it is done."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --requirement requirements-dev.txt
	@$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.peers: requirements-peers.txt $(VENV)/.development
	$(PIP) install --quiet --requirement requirements-peers.txt
	@touch $@

demo: $(VENV)/.development  ## segment a real head MRI, click once, draw the result (demo/demo.png)
	@$(VENV)/bin/python -m evaluation.demo --out demo

# How many tests run side by side; each has one thread, and up to 2 GB of memory.
TEST_PROCESSES ?= auto

test: $(VENV)/.peers  ## run the tests, those of the image too if it is built
	@echo "The fast tests of all rooms, of the documentation too: 4 minutes on two idle cores."
	@echo "make test-slow adds what takes minutes: the full network, overfitting, compiling, torchrun, the commands of the pages."
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --maxprocesses 4 --dist worksteal
	@if docker image inspect $(IMAGE):latest >/dev/null 2>&1; then $(MAKE) test-image; \
	else echo "no image $(IMAGE):latest, so it is not tested; make build makes it"; fi

test-slow: $(VENV)/.peers  ## run the tests that take minutes
	$(VENV)/bin/python -m pytest -m 'slow and not image'

lint: $(VENV)/.development  ## check the style and the types
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/ty check

# An environment with a GPU machine's versions, made where it is not there (3 GB).
REHEARSAL_ENV ?= runs/rehearsal

rehearse: $(VENV)/.development  ## rehearse docs/how-to/train-on-a-gpu.md without a GPU: [PACKED=folder] [REHEARSAL_ENV=folder]
	$(VENV)/bin/python -m benchmarks.rehearsal --environment $(REHEARSAL_ENV) $(if $(PACKED),--packed $(PACKED))

RESULTS ?= runs/evaluation

evaluate: $(VENV)/.development  ## evaluate as the organizers do: CASES=folder [IMAGE=name] [RESULTS=folder]
	@test -n "$(CASES)" || { echo "evaluate: expected CASES=folder of *.npz that hold gts" >&2; exit 2; }
# Exit code 1 says that something failed, such as a case that cannot be read: the report is written all the same.
	@failed=0; run() { \
	  $(VENV)/bin/segfm3d evaluate --cases $(CASES) --results $(RESULTS) "$$@" || { failed=$$?; [ $$failed = 1 ]; }; \
	}; \
	run --baseline ellipsoid; run --baseline random-walker; \
	run $(if $(filter command line environment,$(origin IMAGE)),--image $(IMAGE),--weights weights/default.pt); \
	$(VENV)/bin/segfm3d report --results $(RESULTS); exit $$failed

# The image's name, without a tag; the layered build that it is squashed from is $(IMAGE):layers.
IMAGE ?= segfm3d
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
# Further options for docker build, for example --network=host.
DOCKER_BUILD_OPTIONS ?=
# Handed to the build where the environment has them. Only the names stand on the command line: the values may hold a password.
BUILD_SETTINGS = $(foreach name,PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST,$(if $($(name)),--build-arg $(name)))
PIGZ_OR_GZIP = $(shell command -v pigz || command -v gzip)

# Other weights for the image: a file of ours or an nnInteractive folder, and their licence by SPDX's name.
WEIGHTS ?=
LICENCE ?=
# Anything here for weights that are known to be untrained: their mask is not judged.
STAND_IN ?=
STAGED := build/weights

export IMAGE NAME WEIGHTS LICENCE

.PHONY: build test-image save

build: $(VENV)/.development  ## build the image and squash it (Docker, 20 GB of disk): [WEIGHTS=path LICENCE=name]
	@rm -rf $(STAGED)
	@if [ -n "$$WEIGHTS" ]; then \
	  $(VENV)/bin/python -m evaluation.check_weights "$$WEIGHTS" --licence "$$LICENCE" --stage $(STAGED) \
	    $(if $(STAND_IN),--stand-in); \
	fi
	@trap 'rm -rf $(STAGED)' EXIT; weights=(); \
	if [ -n "$$WEIGHTS" ]; then \
	  mapfile -t weights < $(STAGED)/labels.txt; weights+=(--build-arg WEIGHTS_FOLDER=$(STAGED)); \
	fi; \
	set -x; \
	docker build --build-arg VERSION=$(VERSION) $(BUILD_SETTINGS) $(DOCKER_BUILD_OPTIONS) "$${weights[@]}" \
	  --tag $(IMAGE):layers .
# Squashing takes minutes: what has been squashed already is left as it is.
	@pair() { docker image inspect --format '{{.Id}}' $(IMAGE):layers $(IMAGE):latest 2>/dev/null || true; }; \
	if [ "$$(cat .squashed 2>/dev/null)" != "$$(pair)" ]; then \
	  $(VENV)/bin/docker-squash --tag $(IMAGE):latest $(IMAGE):layers; \
	  pair > .squashed; \
	fi
	@docker image ls $(IMAGE):latest

test-image: $(VENV)/.peers  ## test the built image as the organizers run it
	$(VENV)/bin/python -m pytest -m "image and not slow" tests/image

# The evaluator takes the file name up to the first "." in lower case up to the first "_" for the image's name.
save:  ## write the submission, NAME.tar.gz, with the image as NAME:latest (NAME=… is the team's name)
	@LC_ALL=C; if ! [[ "$${NAME-}" =~ ^[a-z0-9]+(-+[a-z0-9]+)*$$ ]]; then \
	  echo "save: NAME='$${NAME-}': expected NAME=… of lower-case letters, digits and hyphens between them" >&2; exit 2; fi
	@if ! docker image inspect "$$IMAGE:latest" >/dev/null 2>&1; then \
	  echo "save: there is no image $$IMAGE:latest: make build first" >&2; exit 2; fi
	docker tag "$$IMAGE:latest" "$$NAME:latest"
	@trap 'rm -f "$$NAME.tar.gz.unfinished"' EXIT; \
	docker save "$$NAME:latest" | $(PIGZ_OR_GZIP) > "$$NAME.tar.gz.unfinished"; \
	mv "$$NAME.tar.gz.unfinished" "$$NAME.tar.gz"
	@ls -l "$$NAME.tar.gz"
