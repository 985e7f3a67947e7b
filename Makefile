# make repro    set up everything and run the whole pipeline on the default text
# make test     the same set-up, then the quick tests: every claim, in a few minutes
# make help     the rest

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
SCALE ?= full
SEEDS ?= 42,0,1234
RUN ?= sliding
OUT ?= scratch/gpu
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export PYTHONUTF8 := 1

# One command for a machine with CUDA; it needs none of the set-up above: docs/gpu-run.md
GPU = $(PYTHON) -m benchmarks.gpu $(if $(PARTS),--parts $(PARTS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(WHEELS),--wheels $(WHEELS))

.PHONY: help setup readable repro test test-all test-recipes test-scripts test-attacks test-referee test-portability certify recipe rehearse submission show sweep tune lint golden report screenshots gpu gpu-cpu gpu-data clean test-text test-siege

help:
	@echo "make repro                 set up, run the pipeline on the default text, print the summary"
	@echo "make test                  set up, run the quick tests, which touch every claim: before each commit; under four minutes on two cores"
	@echo "make test-all              those and the slow ones: more kills, processes, sizes and variants of the same claims"
	@echo "make setup                 only install what is needed, into $(VENV)"
	@echo "make test-recipes          every published stack in small, from text to certificate: half an hour"
	@echo "make test-scripts          the one script of every published stack in small against the pipeline, to the bit: half an hour"
	@echo "make test-attacks          100,000 hostile blobs against every codec and coder, and the largest round trips: a quarter of an hour"
	@echo "make test-portability      the weight coder with another numpy, BLAS and number of threads: the same bytes"
	@echo "make test-s3               sharing results and sweeps, also through an S3 server that the test starts, and DVC's limits; ten minutes"
	@echo "make test-walk             every command of docs/first-hour.md, in its order, and what it prints; ten minutes"
	@echo "make test-text             the built-in text with other Pythons and their builds: the same sha256; PYTHONS='python3.12 python3.13'; gigabytes"
	@echo "make test-referee          honest evaluators under the audit with twenty seeds: no false alarm; five minutes"
	@echo "make test-siege            artifacts and files that lie, each packed, evaluated and audited; writes docs/siege.md; half an hour"
	@echo "make certify               after make repro: code all of val with the artifact and decode it; RUN=sliding; resumable"
	@echo "make recipe NAME=pr1855    run a recipe of stages/recipes as an experiment; SCALE=tiny: small sizes, minutes on a CPU"
	@echo "make rehearse NAME=pr1855  every node of a recipe at its published sizes, measured, with hardly any work: half an hour on a CPU; TEXT, TOKENIZER"
	@echo "make submission NAME=pr1855   the folder to hand in: a run per seed, README, logs, one script, audited; SEEDS, SCALE, RECORD, THRESHOLD"
	@echo "make show                  the experiments in one table: what differs, seed, score, bytes, verdict; and as a figure"
	@echo "make sweep SET=quantize.entropy.bits_per_weight=3.5,4.5   one short experiment per value, then the table and a figure"
	@echo "make tune SET=train.matrix_learning_rate=0.02:0.1:log TRIALS=20   Optuna looks for better values; python -m stages.recipes.tune --help"
	@echo "make report                print the summary of the last run"
	@echo "make screenshots           pictures of the report for docs/pictures, and a check that nothing on it overlaps; wants chromium"
	@echo "make golden AGAINST=REV    run the pipeline at REV and at HEAD, and compare the hashes of what they made: the proof of a refactor"
	@echo "make gpu                   on a machine with CUDA: all that only a GPU can show, in eight minutes; DATA, WHEELS, OUT, PARTS, MINUTES"
	@echo "make gpu-cpu               the same parts in small on this CPU, which proves the command and not the speed: ten minutes"
	@echo "make gpu-data DATA=folder  text for make gpu, as tokens, at most 20 MB; TEXT, VOCABULARY, BYTES"
	@echo "make lint                  ruff: rules and format"
	@echo "make clean                 remove checkpoints and temporary experiment folders (cached results stay)"

setup: $(VENV)/.installed

# In a container the checkout often belongs to another user, and git then refuses it. Without this, set-up would take it for no repository.
readable:
	@said=$$(LC_ALL=C git rev-parse --git-dir 2>&1) || case "$$said" in \
		*"not a git repository"*) ;; \
		*) test ! -e .git || { echo "git cannot read this checkout: $$said"; \
			echo "If another user owns it, run: git config --global --add safe.directory '$(CURDIR)'"; exit 1; } ;; esac

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | readable
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; Caddie needs Python 3.11 or newer: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Caddie needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) -e '.[dev]'
	@sh stages/compress/install_programs.sh
	@if git rev-parse --git-dir >/dev/null 2>&1; then ! grep -qs no_scm .dvc/config.local || $(VENV)/bin/dvc config --local --unset core.no_scm; \
	else $(VENV)/bin/dvc config --local core.no_scm true; fi
	@touch $@

repro: setup
	@(python -m stages.compress.stale && python -m stages.text_compressors.stale) | xargs -r dvc repro --quiet --force --single-item
	@python -m stages.lib.node.room
	@python -m stages.recipes default --fits
	dvc repro
	@! git rev-parse --quiet --verify HEAD >/dev/null 2>&1 || dvc exp save --quiet --force --name repro || echo "This run was not saved as an experiment, so only the workspace has its results: --compare HEAD will not find them."
	@cat artifacts/report/summary.md
	@echo "The same with plots: artifacts/report/index.html"

show: setup
	@python -m stages.report --experiments

report:
	@cat artifacts/report/summary.md

screenshots: setup
	python benchmarks/screenshots.py --check
	python benchmarks/screenshots.py

test: setup
	python -m pytest

test-all: setup
	python -m pytest -m 'not recipes and not large and not referee'

test-recipes: setup
	python -m pytest --dist load -m recipes tests/test_small_recipes.py

test-scripts: setup
	python -m pytest --dist load -m recipes tests/test_one_script.py

test-attacks: setup
	python -m tests.attacks.run --count 100000
	python -m pytest -n 0 -m large tests/test_codecs.py

test-portability: setup
	python -m venv scratch/numpy-1.26 && scratch/numpy-1.26/bin/python -m pip install --quiet --disable-pip-version-check numpy==1.26.4
	scratch/numpy-1.26/bin/python tests/covariance_golden.py
	OPENBLAS_NUM_THREADS=1 scratch/numpy-1.26/bin/python tests/covariance_golden.py
	python tests/covariance_golden.py

test-text: setup
	@for python in $(or $(PYTHONS),python3.12 python3.13); do \
		$$python -m venv scratch/text/$$python || exit 1; \
		tail -n +2 stages/prepare/distributions.csv | cut -d, -f2,3 | sed 's/,/==/' > scratch/text/list; \
		scratch/text/$$python/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r scratch/text/list || exit 1; \
		scratch/text/$$python/bin/python -m stages.prepare.builtin || exit 1; \
	done

.PHONY: test-s3
test-s3: setup
	python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) -e '.[dev,s3,test-s3]'
	python -m pytest -n 0 -m 'slow or large' tests/test_sharing.py tests/test_dvc_limits.py

.PHONY: test-walk
test-walk: setup
	python -m pytest -n 0 -m large tests/test_first_hour.py

test-referee: setup
	python -m pytest --dist load -m referee tests/test_cheats.py

test-siege: setup
	python -m tests.siege.run --write

certify: setup
	python -m stages.audit.certify $(RUN)

sweep: setup
	@test -n "$(SET)" || { echo "over what? make sweep SET=quantize.entropy.bits_per_weight=3.5,4.5"; exit 1; }
	name=$(or $(NAME),sweep-$$(date +%Y%m%d-%H%M%S)); flags=$$(python -m stages.recipes short) && \
	  copied=$$(python -c "from stages.recipes import catalog; print(catalog.own_text())") && \
	  eval "dvc exp run --queue $$copied --name $$name $$flags $(addprefix -S ,$(SET))" && dvc exp run --run-all && \
	  python -m stages.report --experiments && if dvc queue status | grep "$$name.*Failed"; then \
	  echo "these runs failed, and their rows above are those of the last commit; dvc queue logs NAME says why"; exit 1; fi

tune: setup
	@test -n "$(SET)" || { echo "over what? make tune SET=train.matrix_learning_rate=0.02:0.1:log TRIALS=20"; exit 1; }
	python -m stages.recipes.tune $(SET) $(if $(TRIALS),--trials $(TRIALS)) $(if $(NODE),--node $(NODE)) $(if $(KEY),--key $(KEY)) $(if $(NAME),--name $(NAME))

recipe: setup
	@test -n "$(NAME)" || { echo "which one? make recipe NAME=pr1855 SCALE=tiny; there are: $$(python -m stages.recipes | tr '\n' ' ')"; exit 1; }
	@python -m stages.recipes $(NAME) --scale $(SCALE) --fits
	flags=$$(python -m stages.recipes $(NAME) --scale $(SCALE)) && eval "dvc exp run --name $(NAME)-$(SCALE)-$$(date +%Y%m%d-%H%M%S) $$flags"
	@cat artifacts/report/summary.md

rehearse: setup
	@test -n "$(NAME)" || { echo "which one? make rehearse NAME=pr1855; there are: $$(python -m stages.recipes | tr '\n' ' ')"; exit 1; }
	python benchmarks/rehearse.py $(NAME) $(if $(TEXT),--text $(TEXT)) $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

submission: setup
	@test -n "$(NAME)" || { echo "which one? make submission NAME=pr1855 SCALE=tiny; there are: default $$(python -m stages.recipes | tr '\n' ' ')"; exit 1; }
	python -m stages.submission $(NAME) --seeds $(SEEDS) --scale $(SCALE) $(if $(RECORD),--record $(RECORD)) $(if $(THRESHOLD),--threshold $(THRESHOLD))

lint: setup
	ruff check .
	ruff format --check .

golden: setup
	@test -n "$(AGAINST)" || { echo "against what? make golden AGAINST=HEAD~1"; exit 1; }
	python -m tests.golden_run $(AGAINST)

gpu:
	$(GPU) --out $(OUT) $(if $(DATA),--data $(DATA))

gpu-cpu: setup
	@test -d $(OUT)-data || python -m benchmarks.gpu.data $(OUT)-data --max-bytes 400000 --vocabulary 512
	$(GPU) --out $(OUT)-cpu --data $(OUT)-data --device cpu $(if $(MINUTES),,--minutes 20)

gpu-data: setup
	@test -n "$(DATA)" || { echo "where to? make gpu-data DATA=data/gpu"; exit 1; }
	python -m benchmarks.gpu.data $(DATA) $(if $(TEXT),--text $(TEXT)) $(if $(VOCABULARY),--vocabulary $(VOCABULARY)) $(if $(BYTES),--max-bytes $(BYTES))

clean:
	rm -rf scratch .dvc/tmp/exps dvc_plots
