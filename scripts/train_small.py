"""Trains a small language model on generated tasks, and saves it at some steps of its training.

    python scripts/train_small.py --out runs/studies/checkpoints

The model (Llama's architecture, 1.3 million parameters, words as tokens) learns to continue texts
of ``boolean`` and ``coin_flip`` with their answers. The texts that docs/studies/training_steps.yaml
probes are left out of its training. loss.csv has, for each saved step, the loss of the answer and
of all other words on the probed texts.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.from_config import dataset_from_config

STUDY = Path(__file__).resolve().parents[1] / "docs" / "studies" / "training_steps.yaml"
BATCH, RATE, WARMUP = 48, 2e-3, 30


def texts_of(n: int | None = None, seed: int | None = None) -> list[tuple[str, str]]:
    """Return the texts of the study's datasets with their answers, or of another size and seed."""
    texts = []
    for asked in yaml.safe_load(STUDY.read_text(encoding="utf-8"))["datasets"]:
        config = DatasetConfig(**(asked if n is None else {**asked, "n": n, "seed": seed}))
        dataset = dataset_from_config(config)
        answers = {label: words[0] for label, words in dataset.answers.items()}
        texts += [
            (text, answers[str(label)])
            for text, label in zip(dataset.texts, dataset.labels, strict=True)
        ]
    return texts


def word_tokenizer(texts: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each word and punctuation mark in the texts."""
    words = sorted({word for pair in texts for word in re.findall(r"\w+|[^\w\s]+", " ".join(pair))})
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", padding_side="left"
    )


def losses(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean loss of the last word of each text, and that of all words before it."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    places = (mask.cumsum(dim=1) - 1).clamp_min(0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, :-1]
    each = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return each[:, -1].mean(), each[:, :-1][mask[:, :-2] > 0].mean()


def main() -> None:
    """Train the model, and save it at the given steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--saved", type=int, nargs="+", default=[0, 25, 50, 100, 200, 400])
    parser.add_argument("--width", type=int, default=160)
    options = parser.parse_args()
    torch.manual_seed(0)
    probed = texts_of()
    trained_on = [pair for pair in texts_of(n=6000, seed=1) if pair not in set(probed)]
    tokenizer = word_tokenizer(trained_on + probed)
    width = options.width
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 14 // 5,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=128, pad_token_id=1, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} words")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    last = max(options.saved)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1 - 0.9 * step / last)
    )

    def encoded(pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
        texts = [f"{text} {answer}" for text, answer in pairs]
        return dict(tokenizer(texts, return_tensors="pt", padding=True))

    of_probed, rng, rows = encoded(probed), np.random.default_rng(0), []
    for step in range(last + 1):
        if step in options.saved:
            with torch.inference_mode():
                answer, words = losses(model.eval(), of_probed)
            rows.append([step, round(float(answer), 4), round(float(words), 4)])
            print(*rows[-1], flush=True)
            model.save_pretrained(options.out / f"step{step}")
            tokenizer.save_pretrained(options.out / f"step{step}")
            model.train()
        drawn = rng.choice(len(trained_on), BATCH, replace=False)
        answer, words = losses(model, encoded([trained_on[i] for i in drawn]))
        optimizer.zero_grad()
        (answer + words).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
    with (options.out / "loss.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["step", "answer_loss", "other_loss"], *rows])


if __name__ == "__main__":
    main()
