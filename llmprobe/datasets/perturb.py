"""Perturbations: the texts change, labels and groups stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llmprobe.config.schema import PerturbConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.templates import filled
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed


def perturbed(dataset: ConceptDataset, config: PerturbConfig) -> ConceptDataset:
    """Return the dataset with other texts, row by row; ``config.seed`` fixes them.

    A perturbation comes before the template, so after an instruction the noise is in the middle of
    the text, as in Jin et al. (2024).

    Raises
    ------
    UserError
        ``negation`` or ``paraphrase_template`` of a dataset that does not offer it; a dataset of
        chats or labelled words.
    """
    if dataset.turns is not None or dataset.words is not None:
        what = "chats" if dataset.words is None else "labelled words"
        raise UserError(f"dataset {dataset.name!r}: perturb: changes texts, and not {what}")
    rng = np.random.default_rng(config.seed)
    texts = dataset.texts
    if config.kind == "prefix_noise":
        heads = np.array(["aaa", "bbb"])[rng.integers(2, size=len(texts))]
        changed = [f"{head}{text}" for head, text in zip(heads, texts, strict=True)]
    elif config.kind == "typos":
        changed = [_with_typos(text, config.rate, rng) for text in texts]
    elif config.kind == "case":
        changed = [_CASES[config.to](text, rng) for text in texts]
    else:
        choices = _variants(dataset, config)
        changed = [of_row[rng.integers(len(of_row))] for of_row in choices]
    # The builder's other wordings belong to the old texts.
    return replace(dataset, texts=changed, spans={}, variants={}, perturbation=config.kind)


def _variants(dataset: ConceptDataset, config: PerturbConfig) -> list[list[str]]:
    """Return the texts that ``negation`` or ``paraphrase_template`` chooses from. [n][1 or more]"""
    if config.templates:
        in_each = [filled(dataset, template)[0] for template in config.templates]
        return [list(texts) for texts in zip(*in_each, strict=True)]
    if config.kind not in dataset.variants:
        other = sorted(dataset.variants)
        offers = f"it offers {listed(other)}" if other else "it offers no other wordings"
        remedy = "; give `templates` of its fields" if config.kind == "paraphrase_template" else ""
        raise UserError(f"dataset {dataset.name!r}: perturb: no {config.kind}; {offers}{remedy}")
    return dataset.variants[config.kind]


def _with_typos(text: str, rate: float, rng: np.random.Generator) -> str:
    def mistyped(match: re.Match[str]) -> str:
        word = match[0]
        if rng.random() >= rate:
            return word
        at = int(rng.integers(1, len(word) - 2))  # Never the first letter or the last.
        kind = rng.integers(3)
        if kind == 0 and word[at] != word[at + 1]:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return word[:at] + word[at] * (2 * int(kind == 1)) + word[at + 1 :]

    return re.sub(r"[^\W\d_]{4,}", mistyped, text)


def _random_case(text: str, rng: np.random.Generator) -> str:
    return "".join(
        letter.upper() if up else letter.lower()
        for letter, up in zip(text, rng.integers(2, size=len(text)), strict=True)
    )


_CASES: dict[str, Callable[[str, np.random.Generator], str]] = {
    "upper": lambda text, _: text.upper(),
    "lower": lambda text, _: text.lower(),
    "title": lambda text, _: text.title(),
    "random": _random_case,
}
