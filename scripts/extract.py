"""``python scripts/extract.py CONFIG``: the same as ``llmprobe extract CONFIG``."""

import sys

from llmprobe.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["extract", *sys.argv[1:]]))
