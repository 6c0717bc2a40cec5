# `make report` and `make test` do all the set-up on a machine with Python 3.11+, make and git.
PYTHON ?= python3
OUT ?= results
README ?= --readme README.md --readme docs/claims.md --readme docs/conventions.md --readme docs/experiments.md --readme docs/operators.md
BIN := .venv/bin
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt

.PHONY: report test format latency ablations gallery benchmark clean

# every claim, every cost, a small ablation, every table and figure, and the tables of the README
report: .venv/run
	$(BIN)/ctxbench claims --out $(OUT) > /dev/null
	$(BIN)/ctxbench flops coresnet50 --against resnet50 --per-layer --out $(OUT) > /dev/null
	$(BIN)/ctxbench flops '*' --cross-check --out $(OUT) > /dev/null
	$(BIN)/ctxbench ablate experiments/quick.toml --jobs 2 --retry-failed --out $(OUT) > /dev/null
	$(BIN)/ctxbench report --out $(OUT) $(README)

test: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/pytest -n auto --maxprocesses 4 tests/kernels/on_triton

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# what the four systems cost in time and memory, on a GPU or else on the CPU; about 30 minutes there
latency: .venv/run
	benchmarks/on_gpu.sh --minutes 60 --out $(OUT)

# the ablations whose results are committed; 80 minutes on two cores. One with failed trials does
# not keep the others from running (exit code 1); a mistake or Ctrl-C does
ablations: .venv/run
	failed=0; for name in coconv_levels context_distance context_parts prior_sizes systems; do \
	  $(BIN)/ctxbench ablate experiments/$$name.toml --jobs 2 --out $(OUT) || failed=$$?; \
	  [ $$failed -le 1 ] || exit $$failed; \
	done; exit $$failed

# the pictures in results/figures/gallery, of networks that are trained first if their weights are not
# here: 40 minutes on two cores, or else 3
GALLERY := run:context_gallery
DRAW = $(BIN)/ctxbench visualize
gallery: .venv/run
	for name in context_gallery coconv_levels; do \
	  $(BIN)/ctxbench ablate experiments/$$name.toml --weights --jobs 2 --out $(OUT) || exit; \
	done
	$(DRAW) cues $(GALLERY) --name gallery/cues --out $(OUT)
	$(DRAW) gradcam $(GALLERY)/ResNet/2 $(GALLERY)/CoResNet/2 $(GALLERY)/CGC-ResNet/2 \
	  '$(GALLERY)/Contextual ResNet/2' $(GALLERY)/OverLoCK/2 --name gallery/gradcam --out $(OUT)
	$(DRAW) offsets '$(GALLERY)/Contextual ResNet/1' --index 0 --name gallery/offsets --out $(OUT)
	$(DRAW) priors '$(GALLERY)/Contextual ResNet/1' --name gallery/priors --out $(OUT)
	$(DRAW) kernels $(GALLERY)/OverLoCK/2 --index 0 --name gallery/kernels_overlock --out $(OUT)
	$(DRAW) kernels $(GALLERY)/CGC-ResNet/2 --index 0-31 --name gallery/kernels_cgc --out $(OUT)
	$(DRAW) kernels $(GALLERY)/CoResNet/2 --name gallery/kernels_coconv --out $(OUT)
	$(DRAW) erf 'run:coconv_levels/(1,1,1,1)/1' 'run:coconv_levels/(2,2,2,1)/1' \
	  'run:coconv_levels/(3,3,3,3)/1' 'run:coconv_levels/(4,3,2,1)/1' --layer layer2 \
	  --name gallery/erf_levels --out $(OUT)
	$(DRAW) erf $(GALLERY)/ResNet/2 $(GALLERY)/CoResNet/2 $(GALLERY)/CGC-ResNet/2 \
	  '$(GALLERY)/Contextual ResNet/2' $(GALLERY)/OverLoCK/2 --name gallery/erf_trained --out $(OUT)
	$(DRAW) erf resnet50 coresnet50 cgc_resnet50 ctx_resnet50 convnext_tiny overlock_t \
	  --name gallery/erf --out $(OUT)

# speed and memory on one thread: of counting beside other counters, about 20 minutes; of the
# operators beside the plain convolution, about 20 minutes; of training beside a bare loop, about 15
benchmark: .venv/run
	$(INSTALL) --editable '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/counting.py --out $(OUT)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kernels.py --out $(OUT)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training.py --out $(OUT)

clean:
	rm -rf .venv

$(BIN)/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

.venv/run: $(BIN)/uv pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

.venv/test: $(BIN)/uv pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test]'
	touch $@ .venv/run
