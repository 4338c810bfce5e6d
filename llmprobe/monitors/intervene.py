"""Whether a model uses a direction: what it says after a state is moved along it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmprobe.config.schema import InterveneConfig, ProbeConfig
from llmprobe.extraction.estimate import duration, matmul_speed
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.rerun import Rerun, require_parity
from llmprobe.extraction.tokens import Text
from llmprobe.ground.errors import UserError
from llmprobe.ground.progress import Progress
from llmprobe.models.loading import Architecture, LoadedModel, active_weights
from llmprobe.probing.directions import FITTED, KINDS, Directions, fit_directions
from llmprobe.probing.splits import some_of_each_unit
from llmprobe.probing.tasks import ProbingTasks
from llmprobe.probing.workers import States
from llmprobe.results.interventions import (
    Changed,
    Intervention,
    Measured,
    log_odds_between,
    summarise,
)
from llmprobe.results.resampling import Resamples

DOSES = (0.5, 1.0, 2.0, 4.0)
"""By how many standard deviations states are shifted, at the layer of the largest effect."""
SMALL = 32
"""Up to this many blocks, every layer of a model is changed."""
FEWER = 16
"""Of a larger model, about this many layers are changed."""
_TOKENS = {"cpu": 2048}
_MOST_TOKENS = 16384
"""The most states that go through the model at a time; fewer on a CPU."""

_PAIRS = 10
"""The stream of random numbers that chooses to which other class a text is moved."""

EXAMPLES = 3
"""How many texts of each class are kept as examples of what the model says before and after."""

Answers = Callable[[Tensor], Tensor]
"""From states before the final norm, [n, d], to the logit of each answer. [n, C]"""


NextTokens = Callable[[Tensor], Sequence[str]]
"""From states before the final norm, [n, d], to what the model says next. [n]"""


class Runner(Protocol):
    """Runs texts again with changed states, as ``Rerun`` does."""

    @property
    def device(self) -> torch.device:
        """Return the device that it runs on."""

    def keep(self, texts: Sequence[Text], /) -> Any:
        """Run some texts unchanged, and return what ``run`` needs of them."""

    def run(self, texts: Any, layer: int, states: Tensor, /) -> Tensor:
        """Return the last block's output at the last token. [texts, n, d] -> the same"""


class BetweenClasses(Protocol):
    """Directions from any class to any other, such as ``ClassVectors``."""

    def between(self, first: int, second: int, /) -> Directions:
        """Return the directions from one class to another."""


class Edit(NamedTuple):
    """A change of a state along a direction, which is given by its number."""

    direction: int
    kind: str
    """``reflect`` mirrors the state at the middle, ``remove`` moves it to the middle, and ``shift``
    moves it by ``dose`` standard deviations towards the other side."""
    dose: float = 1.0

    def change(self, sides: np.ndarray, distance: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Return how far states move, given their side, distance to the middle and spread. [m]"""
        far = {"reflect": 2 * distance, "remove": distance, "shift": self.dose * spread}
        moved: np.ndarray = -sides * far[self.kind]
        return moved


@dataclass(frozen=True)
class LayerOfTexts:
    """The states of some texts at a layer, and the directions for each."""

    number: int
    states: np.ndarray
    """[m, d]"""
    fold: np.ndarray
    """The fold of each text. [m]"""
    pairs: np.ndarray
    """The two classes between which each text is moved. [m, 2]"""
    directions: Sequence[BetweenClasses]
    """One for each fold."""

    def of(self, rows: Sequence[int] | np.ndarray) -> LayerOfTexts:
        """Return the same for some of the texts."""
        return replace(self, states=self.states[rows], fold=self.fold[rows], pairs=self.pairs[rows])

    def moved(self, edits: Sequence[Edit]) -> tuple[np.ndarray, np.ndarray]:
        """Return each state unchanged and after each edit, and the side on which it was.

        -> [m, 1 + edits, d], [m, edits]
        """
        m, d = self.states.shape
        which = [edit.direction for edit in edits]
        states = np.empty((m, 1 + len(edits), d), dtype=np.float32)
        states[:, 0] = self.states
        sides = np.empty((m, len(edits)))
        kinds, kind_of = np.unique(
            np.column_stack([self.fold, self.pairs]), axis=0, return_inverse=True
        )
        for kind, (fold, first, second) in enumerate(kinds):
            rows = np.flatnonzero(kind_of.ravel() == kind)
            directions = self.directions[fold].between(first, second)
            places = directions.places(self.states[rows])
            sides[rows] = np.sign(places)[:, which]
            measured_by = directions.distance_of[which]
            change = np.stack(
                [
                    edit.change(sides[rows, i], np.abs(places[:, by]), directions.spread[by])
                    for i, (edit, by) in enumerate(zip(edits, measured_by, strict=True))
                ],
                axis=1,
            )
            acts = directions.acts[which]
            states[rows, 1:] = self.states[rows][:, None] + change[..., None] * acts
        return states, sides


def effects(
    runner: Runner,
    answers: Answers,
    texts: Sequence[Text],
    layers: Sequence[LayerOfTexts],
    edits: Sequence[Edit],
    label: str = "",
) -> tuple[np.ndarray, list[Changed]]:
    """Apply each edit to the states of some texts, at each of some layers.

    -> logits of the answers after the unchanged texts [m, C], and for each layer how far each edit
    moves the log-odds of each text's two classes
    """
    m, n = len(texts), 1 + len(edits)
    plain: np.ndarray = np.empty((m, 0))
    changed = [Changed(layer.number, edits, *np.empty((2, m, len(edits)))) for layer in layers]
    budget = Budget(_TOKENS.get(runner.device.type, _MOST_TOKENS))
    rest = np.array([_rest(text) for text in texts])
    order = np.lexsort((np.array([len(text.tokens) for text in texts]), rest))
    with Progress(label, m * len(layers), shown=bool(label)) as bar:

        def run(rows: Sequence[int]) -> bool:
            nonlocal plain
            kept = runner.keep([texts[row] for row in rows])
            for i, layer in enumerate(layers):
                part = layer.of(rows)
                states, sides = part.moved(edits)
                ends = runner.run(kept, layer.number, torch.from_numpy(states))
                logits = answers(ends.reshape(-1, ends.shape[-1])).float().cpu().numpy()
                logits = logits.reshape(len(rows), n, -1)
                odds = log_odds_between(logits, part.pairs[:, None])
                changed[i].log_odds[rows] = odds[:, 1:] - odds[:, :1]
                changed[i].sides[rows] = sides
                plain = plain if plain.size else np.empty((m, logits.shape[-1]))
                plain[rows] = logits[:, 0]
                bar.advance(len(rows))
            return True

        parts = [order.tolist()]
        for _ in budget.run_in_parts(
            parts,
            run,
            lambda rows: len(rows) * n * int(rest[rows].max()),
            lambda rows: f"{n} changed states of {len(rows)} texts",
        ):
            pass
    return plain, changed


def chosen_layers(config: InterveneConfig, known: Sequence[int], peak: int) -> list[int]:
    """Return the layers to change: all of a small model, of others some around the peak.

    Raises
    ------
    UserError
        There is no such layer.
    """
    if config.layers != "auto":
        unknown = sorted(set(config.layers) - set(known))
        if unknown:
            raise UserError(f"intervene.layers: there is no layer {unknown[0]}; they are "
                            f"{known[0]} to {known[-1]}")  # fmt: skip
        return sorted(set(config.layers))
    if len(known) - 1 <= SMALL:
        return list(known)
    step = -(-len(known) // FEWER)
    near = {layer for layer in known if abs(layer - peak) <= 2}
    return sorted(near | {layer for layer in known if (layer - peak) % step == 0} | {known[-1]})


def tasks_config(probe: ProbeConfig, config: InterveneConfig) -> ProbeConfig:
    """Return the probe options for the folds, and for the shuffled labels of half the null."""
    return probe.alone(kind="logistic", repeats=1, permutations=config.null // 2)


def checked_rerun(
    model: LoadedModel, texts: Sequence[Text], states: States, config: InterveneConfig
) -> Rerun:
    """Return a ``Rerun`` of the model, after a trial on a few of the texts.

    Parameters
    ----------
    texts, states, config
        As ``intervene`` takes them.

    Raises
    ------
    UserError
        The last token of a text cannot be run by itself.
    """
    few, middle = [*range(min(3, len(texts)))], model.n_blocks // 2
    if middle in states.layers:
        trial = torch.from_numpy(states.layer(middle)[few][::-1].copy())
        beside = len(KINDS) * config.null + len(FITTED)
        require_parity(model, [texts[i] for i in few], trial, beside)
    return Rerun(model)


def intervene(
    runner: Runner,
    answers: Answers,
    texts: Sequence[Text],
    states: States,
    tasks: ProbingTasks,
    units: np.ndarray | None,
    config: InterveneConfig,
    *,
    peak: int,
    next_tokens: NextTokens | None = None,
    seed: int = 0,
    label: str = "",
) -> Intervention:
    """Change states of held-out texts along directions that were fitted without these texts' units.

    Parameters
    ----------
    texts
        Up to where the answer begins, each with the one place at which it is changed. [n]
    states
        The states at this place, at every layer. Each [n, d]
    tasks
        The labels, with their folds, and shuffled labels for half of the null (``tasks_config``).
        Each text is moved between its own class and another; if there are several others, each is
        taken equally often.
    peak
        The layer around which layers of a large model are chosen.
    next_tokens
        Gives what the model says next; without it there are no examples.

    Raises
    ------
    UserError
        There is no such layer.
    """
    scored = np.flatnonzero(tasks.scored)
    rows = some_of_each_unit(scored, config.n, units, seed)
    fold, labels = tasks.fold_of[0][rows], tasks.y[rows]
    pairs = _pairs(labels, len(tasks.classes), seed)
    texts = [texts[row] for row in rows]
    layers = []
    for number in chosen_layers(config, states.layers, peak):
        X = states.layer(number)
        of_folds = fit_directions(X, tasks, config.null, seed)
        layers.append(LayerOfTexts(number, X[rows], fold, pairs, of_folds))
    nulls = range(len(FITTED), len(FITTED) + len(KINDS) * config.null)
    of_all = [
        *(Edit(i, "reflect") for i in range(len(KINDS))),
        *(Edit(i, "remove") for i in range(len(FITTED))),
        *(Edit(i, "reflect") for i in nulls),
    ]
    plain, parts = effects(runner, answers, texts, layers, of_all, label)
    measured = Measured(
        labels=labels,
        pairs=pairs,
        logits=plain,
        resamples=Resamples(len(rows), None if units is None else units[rows], seed),
        kinds=KINDS,
    )
    reflected = [(-part.sides * part.log_odds)[:, : len(KINDS)].mean(axis=0) for part in parts]
    best, kind = divmod(int(np.argmax(reflected)), len(KINDS))
    at_one = [
        *(Edit(i, "remove") for i in (*range(len(FITTED)), *nulls)),
        *(Edit(i, "shift", dose) for dose in DOSES for i in (*range(len(KINDS)), *nulls)),
    ]
    _, more = effects(runner, answers, texts, layers[best : best + 1], at_one)
    summary = summarise(measured, [*parts, *more], FITTED)
    if next_tokens is None:
        return summary
    of_each = [np.flatnonzero(labels == label)[:EXAMPLES] for label in range(len(tasks.classes))]
    few = np.sort(np.concatenate(of_each))
    layer = layers[best].of(few)
    examples = _examples(runner, answers, next_tokens, [texts[i] for i in few], layer, kind)
    names = tasks.classes.astype(str)
    return replace(
        summary,
        examples=examples.assign(
            example=rows[few], label=names[labels[few]],
            other_label=names[pairs[few].sum(axis=1) - labels[few]],
        ),
    )  # fmt: skip


def _pairs(labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Return each text's class and another, sorted; all others are equally frequent. [m, 2]"""
    rng, pairs = np.random.default_rng([seed, _PAIRS]), np.tile(labels, (2, 1)).T
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        others = rng.permutation(np.delete(np.arange(n_classes), label))
        pairs[rows, 1] = np.resize(others, len(rows))
    return np.sort(pairs, axis=1)


def _examples(
    runner: Runner,
    answers: Answers,
    next_tokens: NextTokens,
    texts: Sequence[Text],
    layer: LayerOfTexts,
    kind: int,
) -> pd.DataFrame:
    """Return what the model says after some texts, unchanged and with reflected states."""
    states, _ = layer.moved([Edit(kind, "reflect")])
    ends = runner.run(runner.keep(texts), layer.number, torch.from_numpy(states))
    before, after = ends.unbind(dim=1)
    odds = (log_odds_between(answers(of).float().cpu().numpy(), layer.pairs)
            for of in (before, after))  # fmt: skip
    return pd.DataFrame({
        "layer": layer.number, "direction": KINDS[kind], "edit": "reflect",
        **dict(zip(("log_odds", "log_odds_after"), odds, strict=True)),
        "says": next_tokens(before), "says_after": next_tokens(after),
    })  # fmt: skip


def cost(
    model: LoadedModel | Architecture, config: InterveneConfig, texts: Sequence[Text]
) -> tuple[int, float]:
    """Return how many tokens pass through all blocks, and about how many seconds that takes.

    A changed state passes only through the blocks after its layer, and with it the tokens to its
    right.
    """
    n_blocks = model.n_blocks
    layers = chosen_layers(config, range(n_blocks + 1), n_blocks // 2)
    a_layer = 1 + len(KINDS) * 2 + 1 + 2 * config.null
    through = sum((n_blocks - layer) / n_blocks for layer in layers)
    at_one = (2 * config.null * (1 + len(DOSES)) + len(KINDS) * len(DOSES)) / 2
    of_a_text = np.mean([_rest(text) * (a_layer * through + at_one) + 2 * len(text.tokens)
                         for text in texts])  # fmt: skip
    passes = round(min(len(texts), config.n) * float(of_a_text))
    speed = matmul_speed(model.device, model.dtype)
    return passes, 2 * active_weights(model.module) * passes / speed


def _rest(text: Text) -> int:
    """Return how many tokens of a text run again: the first changed one and all after it."""
    return len(text.tokens) - text.places[0][0]


def describe(
    model: LoadedModel | Architecture, config: InterveneConfig, texts: Sequence[Text], position: str
) -> str:
    """Return one line: how many token passes, and how long they take."""
    passes, seconds = cost(model, config, texts)
    return (f"changed at {position} in {min(len(texts), config.n):,} of them, {passes:,} token "
            f"passes, {duration(seconds)}")  # fmt: skip
