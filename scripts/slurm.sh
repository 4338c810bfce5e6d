# A real SLURM (Debian's packages) for the test of `engine: slurm`, which starts daemons of its own.
# Sourced by test.sh in CI only; `bash scripts/slurm.sh` installs it where you want to run that test.
set -euo pipefail
PATH="$PATH:/usr/sbin" # Where the daemons are, which not every user looks into.

if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
    as_root=()
    if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
    echo "installing SLURM for its test" >&2
    "${as_root[@]}" apt-get update --quiet=2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes \
        --no-install-recommends slurm-wlm munge >/dev/null
fi
