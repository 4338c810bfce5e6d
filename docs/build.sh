#!/usr/bin/env bash
# Builds the site into build/html (bash docs/build.sh), of which every warning is an error. The
# tutorial is run for its pictures, which takes a minute or two and the model that it names.
#   --quick      leaves the tutorial without pictures, as the tests do
#   --links      asks every address outside of this project whether it is there; needs a network
#   --studies    runs the studies of docs/studies again, and writes their tables and figures into
#                docs; an hour of one idle core, with their models and LLMPROBE_DATA=FOLDER of datasets
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
"") build=(html -D nb_execution_mode=force) ;;
--quick) build=(html) ;;
--links) build=(linkcheck) ;;
--studies)
    . scripts/environment.sh docs
    "$venv/bin/python" scripts/train_small.py --out runs/studies/checkpoints
    exec "$venv/bin/python" scripts/studies.py make
    ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
. scripts/environment.sh docs
"$venv/bin/python" -m sphinx --fail-on-warning --keep-going -c docs -b "${build[@]}" . "build/${build[0]}"
