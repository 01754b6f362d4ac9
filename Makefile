PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := .venv-extras

DEMO := outputs/demo/recommended/fold3/seed1
RECIPE := recommended
SHIPPED := data=ravdess features=whisper_base_layers $(if $(SER_ENCODER),features.checkpoint=$(SER_ENCODER))

.PHONY: demo pretrained test test-faults test-ray test-databases lint docs bench results clean

# The stamp remembers which pyproject and constraints the environment was made from.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV): some minutes, about 7 GB (README: 2.5 without a GPU).'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## install, train and test one fold on the built-in synthetic corpus
	$(BIN)/python train.py experiment=demo
	@printf '%s\n' 'Pictures of the run: $(DEMO)/figures/*.png. Next:' \
	  '  $(BIN)/ser predict outputs/data/synthetic/*/Session3/sentences/wav/Ses03F_impro01 --checkpoint $(DEMO)' \
	  '  $(BIN)/ser report $(DEMO)' '  $(BIN)/ser demo --checkpoint $(DEMO)'

pretrained: $(VENV)/.installed  ## the model in ser/pretrained again; RAVDESS_ROOT and SER_ENCODER name corpus and encoder
	$(BIN)/ser sweep variant=$(RECIPE) baseline=$(RECIPE) seed=1,2,3 $(SHIPPED) figures=false
	$(BIN)/ser train experiment=$(RECIPE) $(SHIPPED) resume=true protocol=everyone \
	  epochs_from=outputs/ravdess-whisper_base_layers/$(RECIPE)
	$(BIN)/ser export --format hub --output ser/pretrained \
	  --checkpoint outputs/ravdess-whisper_base_layers/$(RECIPE),protocol=everyone/fold1/seed1

test: $(VENV)/.installed  ## install, run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # a thread a worker: more of them would wait for each other

test-faults: $(VENV)/.installed  ## kills, full disks, flipped bits, mutated input: some minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "faults or not faults" tests/faults

# Ray needs an old cloudpickle, and the two libraries bring pyarrow, which pandas would load everywhere.
$(EXTRAS)/.installed: pyproject.toml
	test -x $(EXTRAS)/bin/python || $(PYTHON) -m venv $(EXTRAS)
	@echo 'Installing into $(EXTRAS): some minutes, about 7 GB.'
	$(EXTRAS)/bin/pip install --quiet --disable-pip-version-check --editable '.[ray,audformat,datasets]' pytest
	touch $@

test-ray: $(EXTRAS)/.installed  ## a sweep on a local Ray cluster, in an environment of its own
	OMP_NUM_THREADS=1 $(EXTRAS)/bin/python -m pytest tests/test_sweeping.py -k "launchers and ray"

test-databases: $(EXTRAS)/.installed  ## audformat databases and Hugging Face datasets, in the same environment
	OMP_NUM_THREADS=1 $(EXTRAS)/bin/python -m pytest tests/test_databases.py

lint: $(VENV)/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed  ## the figures of README, as ratios measured in one run
	$(BIN)/python -m benchmarks

WHISPER ?= openai/whisper-base

results: $(VENV)/.installed  ## the tables of docs/results, RAVDESS=folder WHISPER=folder; an interrupted one goes on
	@test -n "$(RAVDESS)" || { echo "give the corpus: make results RAVDESS=/path/to/RAVDESS"; exit 2; }
	@echo "about seven hours of one core, frames included; finished runs are skipped"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.results --ravdess $(RAVDESS) --whisper $(WHISPER)

clean:  ## remove the environment; outputs stay
	rm -rf $(VENV)
