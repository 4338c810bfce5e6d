"""A probe that reads several layers at once, as a monitor can.

There are two forms: one probe of the layers' states side by side, and the mean of the logits of
each layer's own probe. The form is chosen inside each training set, as the penalties are, by the
held-out loss of its inner folds. Both forms are linear in the states side by side, so either is
saved as one direction and one intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed
from llmprobe.probing.layer import HeldOutLogits, LayerFit, predictions, probe_layer
from llmprobe.probing.tasks import ProbingTasks, intercept_loss
from llmprobe.probing.workers import States, each_layer
from llmprobe.results.metrics import METRICS
from llmprobe.results.operating import THRESHOLD_COLUMNS, OperatingPoints

_SCORE = ("multi_layer_score", "multi_layer_score_low", "multi_layer_score_high")
AUTO = 4
"""How many layers ``probe.multi_layer: auto`` reads: one at each quarter of the known layers."""


def layers_together(
    asked: Literal["auto"] | Sequence[int] | None, known: Sequence[int]
) -> list[int]:
    """Return the layers of ``probe.multi_layer`` in rising order; none where it is not asked for.

    Parameters
    ----------
    known
        The layers whose states there are, in rising order.

    Raises
    ------
    UserError
        A layer that is asked for is not known, or there is only one layer.
    """
    if asked is None:
        return []
    if asked == "auto":
        places = np.linspace(0, len(known) - 1, AUTO + 1)[1:].round().astype(int)
        chosen = sorted({known[place] for place in places})
    else:
        chosen = sorted(asked)
    if unknown := sorted(set(chosen) - set(known)):
        raise UserError(
            f"probe.multi_layer: layer {unknown[0]} is not read; the layers are {_in_words(known)}"
        )
    if len(chosen) < 2:
        raise UserError(
            f"probe.multi_layer: only layer {known[0]} is read, and a probe of several layers "
            "takes two or more"
        )
    return chosen


def _in_words(layers: Sequence[int]) -> str:
    if len(layers) > 2 and list(layers) == [*range(layers[0], layers[-1] + 1)]:
        return f"{layers[0]} to {layers[-1]}"
    return listed([str(layer) for layer in layers])


@dataclass(frozen=True)
class SideBySide:
    """The states of several layers, side by side in each row, as those of one layer."""

    states: States
    """The states of single layers."""
    together: Sequence[int]
    """The layers that stand side by side, in rising order; the last one's number stands for all."""

    @property
    def layers(self) -> list[int]:
        """Return the one layer: the deepest that is read."""
        return [self.together[-1]]

    def layer(self, index: int) -> np.ndarray:  # noqa: ARG002
        """Return the states of all layers side by side. [n, d of all layers]"""
        X = self.states.layer(self.together[0])
        # One array for all, so that only one layer is in memory twice at a time. In networks that
        # are no language models, widths can differ.
        wide = np.empty((len(X), X.shape[1] * len(self.together)), X.dtype)
        filled = 0
        for layer in self.together:
            X = X if layer == self.together[0] else self.states.layer(layer)
            end = filled + X.shape[1]
            wide = wide if end <= wide.shape[1] else np.hstack([wide[:, :filled], X])
            wide[:, filled:end] = X
            filled = end
        return wide[:, :filled]

    def n_bytes(self, index: int) -> int:  # noqa: ARG002
        """Return how many bytes of memory the states of all layers take."""
        return sum(map(self.states.n_bytes, self.together))


@dataclass(frozen=True)
class MultiLayerFit:
    """The out-of-fold predictions and the probe of several layers at once."""

    fit: LayerFit
    """As for a layer whose states are the layers' side by side. ``fold0_coef``, ``fold0_intercept``
    and ``probe_plane`` are those of the form side by side, whichever was chosen."""
    side_by_side: np.ndarray
    """Which form each outer fold of each repeat chose: True for the states side by side, False for
    the mean of the layers' logits. [R · folds]"""
    kept_side_by_side: bool
    """The form of the probe that is kept, likewise."""

    @property
    def form(self) -> str:
        """Return the form of the probe that is kept, in words."""
        return "states side by side" if self.kept_side_by_side else "mean of logits"

    def named(self, row: pd.DataFrame, layers: Sequence[int]) -> pd.DataFrame:
        """Return the probe's row of the results, marked to tell it from the deepest layer's."""
        return row.assign(
            probe=row["probe"] + ", multi-layer",
            layers_read=", ".join(map(str, layers)),
            side_by_side_share=self.side_by_side.mean(),
        )

    def columns(
        self, row: pd.DataFrame, operating: OperatingPoints | None, layers: Sequence[int]
    ) -> dict[str, Any]:
        """Return the probe's columns of the summary, without its gain over the best layer.

        Parameters
        ----------
        row
            Its row of the results.
        operating
            The thresholds of the probe that is kept; None unless there are two classes.
        """
        of_row = row.iloc[0]
        main = METRICS[of_row["main_score"]].columns
        columns = dict(zip(_SCORE, of_row[list(main)], strict=True))
        columns |= {f"multi_layer_{name}": of_row[name] for name in METRICS["tpr_at_1_fpr"].columns}
        if operating is not None:
            points = operating.columns(layers[-1], 0)
            columns |= {f"multi_layer_{name}": points[name] for name in THRESHOLD_COLUMNS[1:5]}
        return {
            "multi_layer": ", ".join(map(str, layers)), "multi_layer_form": self.form, **columns,
        }  # fmt: skip


def probe_multi_layer(
    states: States,
    layers: Sequence[int],
    fits: Sequence[LayerFit],
    tasks: ProbingTasks,
    device: torch.device | str,
    label: str,
) -> MultiLayerFit:
    """Fit a probe of several layers, on the folds of the probes of each layer.

    The states side by side, which are in memory once, take a search of penalties and fits of their
    own. The mean of the logits takes no fits, since the logits of each layer are known.

    Parameters
    ----------
    layers
        Which layers, in rising order.
    fits
        What ``probe_layer`` gave for each of them, with its logits.
    label
        What the line of progress calls the curve.
    """
    tasks = tasks.without_refits
    fit = partial(probe_layer, tasks=tasks, device=device, keep_logits=True)
    (wide,) = each_layer(SideBySide(states, layers), fit, label, False)
    return _chosen(fits, wide, tasks)


def _chosen(fits: Sequence[LayerFit], wide: LayerFit, tasks: ProbingTasks) -> MultiLayerFit:
    """Choose a form for each training set, by the held-out loss of the folds inside it."""
    each = [_logits(fit) for fit in fits]
    mean = HeldOutLogits(
        *(torch.stack([getattr(one, name) for one in each]).mean(dim=0)
          for name in ("choices", "outer", "kept"))
    )  # fmt: skip
    beside = _logits(wide)
    losses = np.array([_losses(logits.choices, tasks) for logits in (mean, beside)])
    wins = losses[1] < losses[0]
    n_outer = len(tasks.inner)
    # With a test set, the probe that is kept is the one that scored it.
    kept = bool(wins[n_outer] if tasks.scored.all() else wins[0])

    coef, intercept = wide.coef, wide.intercept
    if not kept:
        coef = np.concatenate([fit.coef for fit in fits]) / len(fits)
        intercept = np.mean([fit.intercept for fit in fits], axis=0)
    of_fold = torch.as_tensor(wins[:n_outer].reshape(len(tasks.fold_of), -1))
    fold_of = torch.as_tensor(tasks.fold_of).clamp_min(0)
    of_row = of_fold.gather(1, fold_of)[:, None]
    outer = torch.where(of_row, beside.outer, mean.outer)
    l2_of_mean, kept_l2_of_mean = (
        np.exp(np.log([getattr(fit, name) for fit in fits]).mean(axis=0))
        for name in ("l2", "kept_l2")
    )
    of_intercept = np.array([intercept_loss(task, tasks.loss) for task in tasks.kept_choices])
    skill = 1 - losses.min(axis=0)[n_outer:] / of_intercept
    aside = None
    if tasks.aside is not None:
        aside = predictions((beside if kept else mean).kept, tasks, tasks.aside)
    fit = replace(
        wide,
        predicted=np.stack([predictions(logits, tasks) for logits in outer]),
        l2=np.where(wins[:n_outer], wide.l2, l2_of_mean),
        kept_l2=float(wide.kept_l2 if kept else kept_l2_of_mean),
        coef=coef,
        intercept=intercept,
        skill=skill[-1:],
        kept_skill=float(skill[0]),
        aside=aside,
        logits=None,
    )
    return MultiLayerFit(fit, wins[:n_outer], kept)


def _logits(fit: LayerFit) -> HeldOutLogits:
    assert fit.logits is not None
    return fit.logits


def _losses(logits: Tensor, tasks: ProbingTasks) -> list[float]:
    """Return the total held-out loss of each choice, from its logits [T, C, n]."""
    targets = torch.as_tensor(tasks.targets)[None]
    totals = []
    for task, of_task in zip((*tasks.inner, *tasks.kept_choices), logits, strict=True):
        scored = torch.as_tensor(task.scored_by >= 0)
        rows = tasks.loss.value(of_task[None, :, scored], targets[:, :, scored])
        totals.append(float(rows.double().sum()))
    return totals
