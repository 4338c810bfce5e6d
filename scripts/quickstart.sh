#!/usr/bin/env bash
# Install, probe two real models on two concepts, and say where the report is.
# Options go to `llmprobe run`: bash scripts/quickstart.sh --limit 300
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
"$venv/bin/llmprobe" run configs/quickstart.yaml "$@"
