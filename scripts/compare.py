"""``python scripts/compare.py RUN_DIR RUN_DIR…``: the same as ``llmprobe compare``."""

import sys

from llmprobe.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["compare", *sys.argv[1:]]))
