"""``python scripts/probe.py CONFIG``: the same as ``llmprobe probe CONFIG``."""

import sys

from llmprobe.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["probe", *sys.argv[1:]]))
