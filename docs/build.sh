#!/usr/bin/env bash
# Builds the site into build/site (bash docs/build.sh), of which every warning is an error. The
# tutorial is run for its pictures, which takes a minute or two and the model that it names.
#   --quick      leaves the tutorial without pictures, as the tests do
#   --links      asks every address outside of this project whether it is there; needs a network
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
"") build=(html -D nb_execution_mode=force) ;;
--quick) build=(html) ;;
--links) build=(linkcheck) ;;
*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
. scripts/environment.sh docs
"$venv/bin/python" -m sphinx --fail-on-warning --keep-going -c docs -b "${build[@]}" . build/site
