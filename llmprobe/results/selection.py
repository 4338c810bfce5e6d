"""A part of results: some models, datasets and layers, or another metric than the main one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llmprobe.ground.errors import UserError, suggestion
from llmprobe.results.columns import CURVE, DEPTHS
from llmprobe.results.metrics import METRICS

if TYPE_CHECKING:
    from llmprobe.results.results import Results


def select(
    results: Results,
    models: str | Iterable[str] | None = None,
    datasets: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> Results:
    """Return the results of some models, datasets and layers, the first two in the order given.

    Parameters
    ----------
    datasets
        Names of datasets, also with a position, ``cities @ mean``, or of the sets of a transfer.

    Raises
    ------
    UserError
        The results have no such model, dataset or layer.
    """
    if models is None and datasets is None and layers is None:
        return results
    transfer, curves = results.transfer, results.curves
    sets = _values(transfer, "train", "test", "train_dataset", "test_dataset")
    known_models = [*_values(results.summary, "model"), *_values(transfer, "model")]
    known_datasets = [name for curve in curves for name in (curve.title, curve.dataset)]
    named_models = _known("models", models, known_models)
    named_datasets = _known("datasets", datasets, [*known_datasets, *sets])
    kept: dict[tuple[int, int], list[int]] = {}
    for row, curve in enumerate(curves):
        names = (curve.title, curve.dataset)
        if curve.model in named_models and (at := _first(named_datasets, names)) is not None:
            kept.setdefault((named_models.index(curve.model), at), []).append(row)
    rows = [row for place in sorted(kept) for row in kept[place]]
    keys = {curves[row].key for row in rows}
    chosen: dict[str, Any] = {
        name: _of_curves(getattr(results, name), keys)
        for name in ("table", "predictions", "learning_curve", "rivals", "interventions")
    }
    asked_sets = None if datasets is None else named_datasets
    for name in ("transfer", "transfer_layers"):
        chosen[name] = _of_sets(getattr(results, name), named_models, asked_sets)
    if layers is not None:
        numbers = [layers] if isinstance(layers, int) else list(layers)
        there = sorted(set(results.table["layer"]))
        for layer in numbers:
            if layer not in there:
                raise UserError(
                    f"layers: {layer!r} is not in these results, which have "
                    f"{there[0]} to {there[-1]}"
                )
        for name in ("table", "predictions", "interventions"):
            if not chosen[name].empty:
                chosen[name] = chosen[name][chosen[name]["layer"].isin(numbers)]
    return replace(results, summary=results.summary.iloc[rows], **chosen)


def with_main_metric(results: Results, name: str) -> Results:
    """Return results whose main metric is another one; the best layers stay what they are.

    Depths of rise, jump and convergence are those of the former metric, and are left out.

    Raises
    ------
    UserError
        There is no such metric, or no layer has a value of it.
    """
    metric = METRICS[name]
    curves = [curve for curve in results.curves if curve.has(metric)]
    if not curves:
        raise UserError(f"no layer has a value of the metric {name!r}")
    keys = {curve.key for curve in curves}
    summary = _of_curves(results.summary, keys)
    summary = summary.assign(
        main_score=name, **{f"peak_{name}": [curve.at_best(name) for curve in curves]}
    )
    of_another = [f"{depth}{end}" for depth in DEPTHS for end in ("", "_low", "_high")]
    there = [column for column in of_another if column in summary]
    if (results.summary["main_score"] != name).any():
        summary[there] = np.nan
    return replace(results, summary=summary)


def _known(kind: str, names: str | Iterable[str] | None, known: Sequence[str]) -> list[str]:
    """Return the names that are asked for, or all known ones; raise ``UserError`` for another."""
    if names is None:
        return list(dict.fromkeys(known))
    asked = [names] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in known:
            raise UserError(
                f"{kind}: {name!r} is not in these results; {suggestion(str(name), set(known))}"
            )
    return asked


def _first(asked: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the first index at which one of some names is asked for; None where none is."""
    return min((asked.index(name) for name in names if name in asked), default=None)


def _values(table: pd.DataFrame, *columns: str) -> list[str]:
    return [str(value) for column in columns if column in table for value in table[column].unique()]


def _of_curves(table: pd.DataFrame, keys: set[tuple[str, str, str]]) -> pd.DataFrame:
    if not set(CURVE) <= set(table):
        return table
    return table[pd.MultiIndex.from_frame(table[list(CURVE)]).isin(keys)]


def _of_sets(
    table: pd.DataFrame, models: Sequence[str], names: Sequence[str] | None
) -> pd.DataFrame:
    """Return the cells of some models whose train and test sets, or their datasets, are named."""
    if table.empty:
        return table
    table = table[table["model"].isin(models)]
    if names is None:
        return table
    sides = [
        table[side].isin(names) | table.get(f"{side}_dataset", table[side]).isin(names)
        for side in ("train", "test")
    ]
    return table[sides[0] & sides[1]]
