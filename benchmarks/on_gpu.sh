#!/usr/bin/env bash
# The whole comparison, from the source tree alone: within 8 minutes on one GPU, else on the CPU with
# sizes that fit. Rows are appended to results/raw (or to --out DIR/raw); see families.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$python" benchmarks/families.py "$@"
