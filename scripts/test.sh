#!/usr/bin/env bash
# Every check that CI runs. Options go to pytest: bash scripts/test.sh -k capitals
# Tests run in two processes, each with one thread for products of matrices: where threads of both
# wait for each other, they take several times as long. -n 0 is one process, for a debugger.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh dev
. scripts/browser.sh
# Only CI's machines are there to have daemons started on them.
if [ -n "${CI:-}" ]; then . scripts/slurm.sh; fi
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/lint-imports" --no-cache
OMP_NUM_THREADS=1 "$venv/bin/pytest" --numprocesses 2 --dist worksteal "$@"
