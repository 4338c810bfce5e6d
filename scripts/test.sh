#!/usr/bin/env bash
# Every check that CI runs. Options are passed to pytest: bash scripts/test.sh -k capitals
# Tests run in two processes with one thread each for matrix products: with more, threads wait for
# each other, and tests take several times as long. -n 0 is one process, for a debugger.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh dev
. scripts/browser.sh
# The SLURM test starts daemons, so it is for CI's machines.
if [ -n "${CI:-}" ]; then . scripts/slurm.sh; fi
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/lint-imports" --no-cache
OMP_NUM_THREADS=1 "$venv/bin/pytest" --numprocesses 2 --dist worksteal "$@"
