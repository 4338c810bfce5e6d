#!/usr/bin/env bash
# Builds two example pages here from the packaged models: quickstart.html, and comparison.html of a
# run of each model. Installs into .venv if need be; a few minutes, seconds when all is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/environment.sh
run() { "$venv/bin/llmprobe" "$@"; }
run run configs/quickstart.yaml --out runs/quickstart
for model in smollm2-135m gemma-3-270m; do
    run run configs/quickstart.yaml --set name="$model" --set "models=[$model]" --out "runs/$model"
done
run compare runs/smollm2-135m runs/gemma-3-270m --out runs/comparison
cp runs/quickstart/report.html docs/examples/quickstart.html
cp runs/comparison/report.html docs/examples/comparison.html
ls -l docs/examples/*.html
