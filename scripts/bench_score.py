#!/usr/bin/env python
"""Measure the processor seconds and peak memory of scoring more and more texts.

    python scripts/bench_score.py [--texts 5000 50000] [--blocks 8] [--width 64]

Each number of texts is measured in two processes: `llmprobe score` with a probe at the middle layer
of a small random model, and the extraction of that layer alone from the same texts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

WORDS = "a the is of to not and coin flips heads up still capital city Lima Peru Paris".split()


def make(folder: Path, blocks: int, width: int) -> None:
    """Write a random model and a probe of it."""
    import numpy as np
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    import llmprobe
    from llmprobe.config.schema import ModelConfig

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder / "model")
    LlamaModel(LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=blocks, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=256,
    )).save_pretrained(folder / "model")  # fmt: skip
    table = folder / "few.csv"
    write(table, 60)
    dataset = llmprobe.load_dataset(str(table))
    model = ModelConfig(id=str(folder / "model"), dtype="float32")
    activations = llmprobe.extract(model, dataset, cache=False, progress=False)
    results = llmprobe.probe(
        activations, progress=False, permutations=0, controls=[], description_length=False
    )
    assert np.isfinite(results.table["accuracy"]).all()
    results.probes[0].save(folder / "probe.safetensors")


def write(path: Path, n: int) -> None:
    """Write n made-up texts of 8 to 24 words, each with a label."""
    rng = random.Random(n)
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for i in range(n):
            file.write(f"{' '.join(rng.choices(WORDS, k=rng.randint(8, 24)))},{i % 2}\n")


def child(what: str, folder: Path, n: int, layer: int) -> None:
    """Do one piece of work and print what it took."""
    from llmprobe.cli.main import main

    table = folder / f"{n}.csv"
    if what == "score":
        code = main(["score", str(folder / "probe.safetensors"), "--file", str(table),
                     "--model", str(folder / "model"), "--layer", str(layer),
                     "--out", str(folder / f"scored-{n}.csv")])  # fmt: skip
        assert code == 0
    else:
        import llmprobe
        from llmprobe.config.schema import ModelConfig

        model = ModelConfig(id=str(folder / "model"), dtype="float32")
        llmprobe.extract(
            model, llmprobe.load_dataset(str(table)), layers=(layer,),
            cache=False, progress=False,
        )  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([used.ru_utime, used.ru_maxrss / 1024]))


def main() -> None:
    """Print a row for each number of texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, nargs="+", default=[100, 5000, 50_000])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, folder, n, layer = options.child
        child(what, Path(folder), int(n), int(layer))
        return
    print("| texts | score, seconds | memory | extraction of the layer, seconds | memory |\n"
          "|--:|--:|--:|--:|--:|", flush=True)  # fmt: skip
    with TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.blocks, options.width)
        for n in options.texts:
            write(folder / f"{n}.csv", n)
            cells = [f"{n:,}"]
            for what in ("score", "extract"):
                words = ["--child", what, name, str(n), str(options.blocks // 2)]
                done = subprocess.run(
                    [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE,
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                )  # fmt: skip
                seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
                cells += [f"{seconds:.1f}", f"{megabytes:.0f} MB"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
