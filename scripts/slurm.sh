# Installs SLURM (Debian's packages) for the test of `engine: slurm`, which starts its own daemons.
# Sourced by test.sh in CI only; to run that test elsewhere: bash scripts/slurm.sh
set -euo pipefail
PATH="$PATH:/usr/sbin" # The daemons are there, and not every user has it in PATH.

if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
    as_root=()
    if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
    echo "installing SLURM for its test" >&2
    "${as_root[@]}" apt-get update --quiet=2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes \
        --no-install-recommends slurm-wlm munge >/dev/null
fi
