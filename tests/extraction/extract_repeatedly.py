"""Extracts in forked processes that can be killed at any moment; run by test_resume.py.

Everything is imported once, so that 24 extractions take seconds. Each line of standard input is a
folder for the cache; a process begins to extract into it, and its number is printed. When it ends
by itself, so is ``done``.
"""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import torch

# Slow to import, and done on first use.
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, LlamaModel  # noqa: F401
from transformers.models.auto import modeling_auto, tokenization_auto  # noqa: F401

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.load import load_dataset
from llmprobe.extraction import plan
from llmprobe.extraction.extract import Extractor


def main(model: str, table: str) -> None:
    # Shards of sixteen texts, so that a small dataset has many.
    plan.LEAST_ROWS, plan.LEAST_SHARDS = 16, 1000
    torch.set_num_threads(1)
    dataset = load_dataset(table)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.environ["LLMPROBE_CACHE"] = line.strip()
            extractor = Extractor(ModelConfig(id=model, dtype="float32"))
            extractor.extract(dataset, progress=False)
            os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
