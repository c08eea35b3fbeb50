# Two commands: `make demo` and `make test`. Both set up .venv first, as `make install` does alone,
# and go on from an interrupted set-up: pip finds what is there, and the stamp appears only when
# everything is installed.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: install demo demo-from-scratch test smoke lint clean

install: $(STAMP)

demo: $(STAMP)
	$(RUN) -m reta_jax.demo

demo-from-scratch: $(STAMP)
	$(RUN) -m reta_jax.demo --from-scratch --workdir demo-from-scratch

smoke: $(STAMP)
	$(RUN) -m reta_jax.demo --smoke --workdir demo-smoke

test: $(STAMP)
	$(RUN) -m pytest -n 2 --dist loadfile tests

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(STAMP): pyproject.toml constraints.txt overrides.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say make PYTHON=python3.12"; exit 2; }
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv \
	  && $(RUN) -m uv pip install --quiet --python $(RUN) -c constraints.txt \
	    --overrides overrides.txt -e '.[dev]' \
	  || $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo demo-from-scratch demo-smoke
