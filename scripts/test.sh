#!/usr/bin/env bash
# Every check that CI runs. Options go to pytest: bash scripts/test.sh -k capitals
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh dev
. scripts/browser.sh
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/pytest" "$@"
