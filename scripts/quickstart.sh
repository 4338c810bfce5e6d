#!/usr/bin/env bash
# Install llmprobe, probe two real models on two concepts, and print where the report is.
# Options are passed to `llmprobe run`: bash scripts/quickstart.sh --limit 300
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
"$venv/bin/llmprobe" run configs/quickstart.yaml "$@"
