#!/usr/bin/env bash
# Check and measure llmprobe on one GPU, in five minutes and without a network.
#   bash scripts/gpu.sh --wheels [DIR]        before, with a network: fetch the wheels it will need
#   bash scripts/gpu.sh [--out FILE.md]       on the GPU machine: it needs Python 3.12, torch,
#                                             transformers, and this folder with the wheels
#   bash scripts/gpu.sh --tiny                the same code on tiny sizes, on a CPU too
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

if [ "${1:-}" = --wheels ]; then
    folder="${2:-gpu-wheels}"
    mkdir -p "$folder"
    packages="pydantic pandas scipy scikit-learn threadpoolctl psutil"
    # Dependencies of these that torch and transformers do not bring.
    more="pydantic-core annotated-types typing-inspection python-dateutil six joblib cloudpickle narwhals"
    wanted=()
    for package in $packages; do
        wanted+=("$(grep "^$package==" constraints.txt || echo "$package")")
    done
    "$python" -m pip download --only-binary :all: --python-version "${TARGET:-3.12}" --no-deps \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux2014_x86_64 --dest "$folder" "${wanted[@]}" $more
    git rev-parse --short HEAD >"$folder/commit"
    du -sh "$folder"
    exit
fi
exec "$python" scripts/gpu.py "$@"
