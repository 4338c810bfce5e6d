"""What every picture of a trace shows: its words, its colours, and the part that has room."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from llmprobe.ground.text import elide
from llmprobe.probing.pooling import Pooling
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.results.trace import Trace

SHADES = 41
"""The number of colours of cells, from the first to the last of ``CHANCE_MAP``."""
PALE = 0.3
"""How much of its colour a cell keeps at tokens where the probe was not fitted."""
_POSITIONS = {
    "last": "the last token",
    "first": "the first token",
    "mean": "the mean of all tokens",
    "span": "the end",
    "turn": "the turn",
}
"""By the part of a position before its colon."""
_POOLED = {
    "max": "is the largest",
    "softmax": "is the mean, weighted by their soft-max",
    "attention": "is the mean, weighted by a learned query",
}
"""How a text's score follows from those of its tokens, by the kind of pooling."""


class Cell(NamedTuple):
    """The score of one token at one layer, as a table shows it."""

    shade: int
    """The number of its colour, below ``SHADES``."""
    number: str


class Row(NamedTuple):
    """One layer of a trace, as a table shows it."""

    layer: int
    best: bool
    """Whether the probe does best at this layer."""
    cells: list[Cell]


@dataclass(frozen=True, eq=False)
class TraceView:
    """The part of a trace that a picture has room for.

    It has the last tokens, since most probes are fitted there, and evenly spaced layers, with the
    first, the last and the best among them.
    """

    trace: Trace
    """The whole trace."""
    most_tokens: int = sys.maxsize
    most_layers: int = sys.maxsize

    @property
    def meaning(self) -> str:
        """Say what the scores are: ``probability of '1'``."""
        label = self.trace.label
        return "predicted number" if label is None else f"probability of {elide(label, 40)!r}"

    @property
    def caution(self) -> str:
        """Say why the scores are to be read with care."""
        kind, _, of = self.trace.position.partition(":")
        pooling = Pooling.of(self.trace.position)
        if pooling and not pooling.is_of_states:
            how = _POOLED[pooling.kind]
            return f"The probe scores each token (those in bold); a text's score {how}."
        if pooling:
            kind, of = "mean", ""
        place = _POSITIONS.get(kind, elide(self.trace.position, 40))
        if of and kind in _POSITIONS:
            place += f" of {elide(of, 40)!r}"
        if self.trace.of_words:
            place = place.replace("all tokens", "the tokens") + " of a labelled word"
        if pooling and pooling.kind == "last":
            place = f"the mean of the last {pooling.number:g} tokens"
        if any(self.read):
            place += " (in bold)"
        return f"The probe was fitted at {place}; elsewhere (pale) it is not tested."

    @cached_property
    def tokens(self) -> list[str]:
        """Return the tokens that are shown, with spaces that can be seen."""
        return [visible(token) for token in self.trace.tokens[-self.most_tokens :]]

    @cached_property
    def read(self) -> list[bool]:
        """Return whether the probe was fitted at each token that is shown; others are pale."""
        n = len(self.trace.tokens)
        read = set(self.trace.read)
        if not read and self.trace.position == "last" and not self.trace.of_words:
            read = {n - 1}  # An earlier version did not write it down.
        return [i in read for i in range(n - len(self.tokens), n)]

    @cached_property
    def layers(self) -> list[int]:
        """Return the layers that are shown, in rising order."""
        return [self.trace.layers[i] for i in self._chosen]

    @cached_property
    def _chosen(self) -> np.ndarray:
        n, best = len(self.trace.layers), self.trace.layers.index(self.trace.best_layer)
        chosen = np.linspace(0, n - 1, min(n, self.most_layers)).round().astype(int)
        if best not in chosen:
            chosen[1 + np.abs(chosen[1:-1] - best).argmin()] = best
        return chosen

    @cached_property
    def score_range(self) -> tuple[float, float]:
        """Return the scores with the first and the last colour: 0 and 1 for probabilities.

        For numbers it is the range without outliers (Tukey 1977, section 2D: beyond the quartiles
        by 1.5 times their distance). Many models give their first token a state of enormous norm,
        so that token counts only if the probe was fitted there.
        """
        trace = self.trace
        if trace.label is not None:
            return 0.0, 1.0
        skipped = int(trace.position != "first" and len(trace.tokens) > 1)
        scores = trace.scores[:, skipped:]
        first, third = np.quantile(scores, [0.25, 0.75])
        reach = 1.5 * (third - first)
        low, high = max(scores.min(), first - reach), min(scores.max(), third + reach)
        return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)

    @cached_property
    def levels(self) -> np.ndarray:
        """Return where in ``CHANCE_MAP`` each score lies, 0 to 1. [layers, tokens]

        Even odds lie in the middle. Numbers have no chance, and run from the middle, which is
        light, to the dark end.
        """
        low, high = self.score_range
        shares = np.clip((self._scores - low) / (high - low), 0, 1)
        levels: np.ndarray = shares if self.trace.label is not None else 0.5 + shares / 2
        return levels

    @property
    def _scores(self) -> np.ndarray:
        scores: np.ndarray = self.trace.scores[self._chosen, -len(self.tokens) :]
        return scores

    @cached_property
    def rows(self) -> list[Row]:
        """Return the cells of each layer, the last layer first."""
        shades = np.rint(self.levels * (SHADES - 1)).astype(int)
        numbers = [[self.number(score) for score in scores] for scores in self._scores.tolist()]
        return [
            Row(layer, layer == self.trace.best_layer, list(map(Cell, row_shades, row_numbers)))
            for layer, row_shades, row_numbers in zip(
                self.layers, shades.tolist(), numbers, strict=True
            )
        ][::-1]

    @property
    def scale(self) -> range:
        """Return the shades of cells from the lowest score to the highest."""
        return range(0 if self.trace.label is not None else SHADES // 2, SHADES)

    def number(self, score: float) -> str:
        """Return a score with the digits that matter."""
        if self.trace.label is not None:
            return f"{score:.2f}"
        return f"{score:.0f}" if 100 <= abs(score) < 1e6 else f"{score:.3g}"

    def left_out(self, where: str, tokens: int | None = None) -> str:
        """Say what is not shown, and that ``where`` has it; nothing if everything is shown.

        Parameters
        ----------
        tokens
            How many of the last tokens are shown; by default those of the view.
        """
        missing = []
        if lost := len(self.trace.tokens) - (len(self.tokens) if tokens is None else tokens):
            missing.append(f"the first {lost:,} tokens")
        n = len(self.trace.layers)
        if len(self.layers) < n:
            missing.append(f"{n - len(self.layers)} of {n} layers")
        return f"Left out here: {' and '.join(missing)}; {where} has them." if missing else ""


def colours(shade: int, pale: bool = False) -> tuple[str, str]:
    """Return the colours of a cell's number and of its ground: ``("#ffffff", "#002c64")``."""
    part = PALE if pale else 1.0
    red, green, blue = (part * c + 1 - part for c in CHANCE_MAP(shade / (SHADES - 1))[:3])
    # On less than this luminance white stands out more than black does (WCAG 2.2).
    dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.179
    return "#ffffff" if dark else "#000000", to_hex((red, green, blue))


def shade_style() -> str:
    """Return the colours of the classes ``s0``, ``s1``, …, as CSS."""
    rules = []
    for shade in range(SHADES):
        ink, ground = colours(shade)
        rules.append(f".s{shade} {{ --ground: {ground}; color: {ink}; background: {ground}; }}")
    mixed = f"color-mix(in srgb, var(--ground) {PALE:.0%}, var(--paper))"
    rules.append(f".trace .pale {{ color: var(--ink); background: {mixed}; }}")
    return "\n".join(rules)


def visible(token: str) -> str:
    """Return a token whose spaces show: ``·`` for one at an end, ``↵`` and ``⇥`` for others."""
    token = token.replace("\r\n", "↵").replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")
    inner = token.strip(" ")
    start = len(token) - len(token.lstrip(" ")) if inner else 0
    return "·" * start + inner + "·" * (len(token) - start - len(inner))
