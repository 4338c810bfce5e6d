"""What changing a model's states does to its answers: a table, and its summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import pandas as pd

from llmprobe.results.resampling import Resamples


class AnEdit(Protocol):
    """A change of a state along one of the directions, which are numbered."""

    @property
    def direction(self) -> int:
        """Return the number of the direction."""

    @property
    def kind(self) -> str:
        """Return ``reflect``, ``remove`` or ``shift``."""

    @property
    def dose(self) -> float:
        """Return the number of standard deviations of a shift."""


@dataclass(frozen=True)
class Measured:
    """The texts whose states are changed, and what the model says of them unchanged."""

    labels: np.ndarray
    """The class of each text. [m]"""
    pairs: np.ndarray
    """The two classes between which each state is moved, its own and another, in order. [m, 2]"""
    logits: np.ndarray
    """The logits of the answers, with unchanged states. [m, C]"""
    resamples: Resamples
    """Resamples of the texts' units."""
    kinds: Sequence[str]
    """The kinds of directions that have a null, which come first; each draw of the null has one
    direction for each."""

    @property
    def log_odds(self) -> np.ndarray:
        """Return the log-odds of the second of each text's two classes over the first. [m]"""
        return log_odds_between(self.logits, self.pairs)

    @property
    def gap(self) -> float:
        """Return how far apart two classes are in the log-odds of one over the other.

        With more than two classes, it is the average over all pairs of them.
        """
        gaps = [second.mean() - first.mean() for first, second in self._of_pairs()]
        return float(np.mean(gaps))

    @property
    def scale(self) -> float:
        """Return what effects are shares of: the gap, or the spread of log-odds within a class.

        It is the larger of both: where the model hardly says the class, the gap is next to nothing,
        and any effect would be a large share of it.
        """
        within = [np.concatenate([first - first.mean(), second - second.mean()]).std()
                  for first, second in self._of_pairs()]  # fmt: skip
        return max(self.gap, float(np.mean(within)), 1e-12)

    def _of_pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the log-odds of one class over another, of the texts of either, for each pair."""
        for first, second in combinations(np.unique(self.labels), 2):
            odds = self.logits[:, second] - self.logits[:, first]
            yield odds[self.labels == first], odds[self.labels == second]

    def auroc(self, log_odds: np.ndarray) -> float:
        """Return how often log-odds [m] are higher for a text of the second of its two classes.

        With more than two classes, it is the average over the pairs of them; NaN without any.
        """
        from scipy.stats import rankdata  # type: ignore[import-untyped]

        of_pairs = []
        for pair in np.unique(self.pairs, axis=0):
            rows = (self.pairs == pair).all(axis=1)
            ranks, second = rankdata(log_odds[rows]), self.labels[rows] == pair[1]
            n = int(second.sum())
            if 0 < n < len(ranks):
                of_pairs.append((ranks[second].mean() - (n + 1) / 2) / (len(ranks) - n))
        return float(np.mean(of_pairs)) if of_pairs else np.nan


def log_odds_between(logits: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the log-odds of one answer over another, by the soft-max over all answers. -> [...]

    Parameters
    ----------
    logits
        The logits of the answers. [..., C]
    pairs
        The indices of two answers: log-odds are those of the second over the first. [..., 2]
    """
    both = np.take_along_axis(logits, np.broadcast_to(pairs, (*logits.shape[:-1], 2)), axis=-1)
    log_odds: np.ndarray = both[..., 1] - both[..., 0]
    return log_odds


@dataclass(frozen=True)
class Intervention:
    """The results of changing the states of one model on one dataset."""

    table: pd.DataFrame
    """A row for each layer × direction × edit × dose, without the names of the curve."""
    by_layer: pd.DataFrame
    """Columns of the results, a row for each layer: ``used_share`` with its interval and
    ``used_p_value``, of the direction that has the largest effect at any layer."""
    summary: pd.DataFrame
    """Columns of the summary, one row."""
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Columns of ``columns.INTERVENE_EXAMPLES``, but for the names of the curve and the texts."""


@dataclass(frozen=True)
class Changed:
    """The effects of some edits at one layer."""

    layer: int
    edits: Sequence[AnEdit]
    log_odds: np.ndarray
    """How far each edit moved the log-odds of each text. [m, edits]"""
    sides: np.ndarray
    """1 where a state stood on the side of the second of its two classes along the edit's
    direction, -1 where it stood on the other. [m, edits]"""


def summarise(measured: Measured, parts: Sequence[Changed], fitted: Sequence[str]) -> Intervention:
    """Compare each effect with those of the same edit along directions of the null.

    The effect on a text is how far its log-odds move away from the side on which its state stood.

    Parameters
    ----------
    parts
        The effects at each layer. Those of all layers, with the reflections, come first.
    fitted
        The names of the first directions; all further ones are of the null.
    """
    rows: list[dict[str, Any]] = []
    for part in parts:
        of_edit: dict[tuple[str, float], list[int]] = {}
        for i, edit in enumerate(part.edits):
            of_edit.setdefault((edit.kind, edit.dose), []).append(i)
        for (kind, dose), columns in of_edit.items():
            names = {"layer": part.layer, "edit": kind, "dose": dose}
            own = [i for i in columns if part.edits[i].direction < len(fitted)]
            null = [i for i in columns if part.edits[i].direction >= len(fitted)]
            rows += [names | row for row in _rows(measured, part, own, null, fitted)]
    table = pd.DataFrame(rows)
    # At the layer that was edited twice, the second time has the null too.
    table = table.drop_duplicates(["layer", "direction", "edit", "dose"], keep="last")
    table = table.sort_values("layer", kind="stable").reset_index(drop=True)
    for end in ("", "_low", "_high"):
        table[f"share{end}"] = table[f"effect{end}"] / measured.scale
    table["n_examples"] = len(measured.labels)
    return Intervention(table, *_used(measured, table, parts, fitted))


def _effects(part: Changed, columns: Sequence[int]) -> np.ndarray:
    """Return the effects of some edits on each text. [m, edits]"""
    effects: np.ndarray = -part.sides[:, columns] * part.log_odds[:, columns]
    return effects


def _rows(
    measured: Measured,
    part: Changed,
    own: Sequence[int],
    null: Sequence[int],
    fitted: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the rows of one edit at one layer: of each direction, and of the null."""
    of_null = _effects(part, null).mean(axis=0).reshape(-1, len(measured.kinds))
    effects = _effects(part, own)
    low, high = np.quantile(measured.resamples.means(effects), (0.025, 0.975), axis=0)
    rows = []
    for i, column in enumerate(own):
        name, value = fitted[part.edits[column].direction], float(effects[:, i].mean())
        kind = name if name in measured.kinds else measured.kinds[-1]
        draws = of_null[:, measured.kinds.index(kind)]
        removed = part.edits[column].kind == "remove"
        rows.append({
            "direction": name, "effect": value, "effect_low": low[i], "effect_high": high[i],
            "null_mean": draws.mean() if draws.size else np.nan,
            "null_high": np.quantile(draws, 0.95) if draws.size else np.nan,
            "p_value": _p_value(value, draws),
            "said_auroc": measured.auroc(measured.log_odds + part.log_odds[:, column])
            if removed else np.nan,
        })  # fmt: skip
    if of_null.size:
        ends = np.quantile(of_null, (0.025, 0.975))
        rows.append({
            "direction": "null", "effect": of_null.mean(), "effect_low": ends[0],
            "effect_high": ends[1], "null_mean": of_null.mean(),
            "null_high": np.quantile(of_null, 0.95), "p_value": np.nan, "said_auroc": np.nan,
        })  # fmt: skip
    return rows


def _p_value(value: float, null: np.ndarray) -> float:
    """Return the share of the null as large as the effect, which counts too; NaN without a null."""
    return float((1 + (null >= value).sum()) / (1 + len(null))) if len(null) else np.nan


def _used(
    measured: Measured, table: pd.DataFrame, parts: Sequence[Changed], fitted: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the columns of the results and of the summary, by reflections.

    The largest effect over layers and directions is compared with the largest effect of each draw
    of the null, which has a direction of each kind too.
    """
    reflected = table[(table["edit"] == "reflect") & (table["direction"] != "null")]
    best = reflected.iloc[int(reflected["effect"].to_numpy().argmax())]
    draws = []
    for part in parts:
        null = [i for i, edit in enumerate(part.edits)
                if edit.kind == "reflect" and edit.direction >= len(fitted)]  # fmt: skip
        if null:
            draws.append(_effects(part, null).mean(axis=0).reshape(-1, len(measured.kinds)))
    largest = np.max([draw.max(axis=1) for draw in draws], axis=0) if draws else np.empty(0)
    of_best = reflected[reflected["direction"] == best["direction"]]
    columns = {"layer": "layer", "share": "used_share", "share_low": "used_share_low",
               "share_high": "used_share_high", "p_value": "used_p_value"}  # fmt: skip
    by_layer = of_best[[*columns]].rename(columns=columns).reset_index(drop=True)
    summary = {
        "used_layer": int(best["layer"]),
        "used_direction": str(best["direction"]),
        "used_p_value": _p_value(float(best["effect"]), largest),
        **{f"used_share{end}": float(best[f"share{end}"]) for end in ("", "_low", "_high")},
    }
    return by_layer, pd.DataFrame([summary])
