# Sourced by quickstart.sh and test.sh: makes a virtual environment in .venv and installs llmprobe.
# Usage: . scripts/environment.sh [EXTRA]; sets $venv. It takes a second if all is installed.
set -euo pipefail

extra="${1:-}"
venv="$PWD/.venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ ! -x "$venv/bin/python" ]; then
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            found=$python
            break
        fi
    done
    if [ -z "${found:-}" ]; then
        echo "llmprobe needs Python 3.11 or newer; set PYTHON to one" >&2
        exit 2
    fi
    echo "making .venv with $("$found" --version)" >&2
    "$found" -m venv "$venv"
fi

# The installation depends on these files and on the extra; if they change, install again.
wanted="$(cat pyproject.toml constraints.txt | cksum) $extra $PWD"
stamp="$venv/installed${extra:+-$extra}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing into .venv (a few minutes the first time)" >&2
    if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        torch=$(grep '^torch==' constraints.txt)
        if [ "$(uname)" != Linux ] || command -v nvidia-smi >/dev/null; then
            pip install --quiet "$torch"
        elif ! pip install --quiet "$torch+cpu" 2>/dev/null; then
            # The default build can bring gigabytes of CUDA, which are useless without a GPU.
            echo "pip finds no CPU build of torch where it looks, so it installs the default one;" \
                "to avoid its CUDA packages, install a CPU build into .venv first" >&2
            pip install --quiet "$torch"
        fi
    fi
    pip install --quiet --constraint constraints.txt --editable ".${extra:+[$extra]}"
    echo "$wanted" >"$stamp"
fi
