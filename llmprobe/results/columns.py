"""The columns of the tables of results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype, is_string_dtype

from llmprobe.results.metrics import METRICS
from llmprobe.results.operating import THRESHOLD_COLUMNS

MULTI_LAYER = ("layers_read", "side_by_side_share")
"""Columns of the results about a multi-layer probe: the layers it reads, and the share of the outer
folds that chose their states side by side. Empty for a probe of one layer."""

MULTI_LAYER_SUMMARY = (
    *("multi_layer", "multi_layer_form"),
    *(f"multi_layer_{name}{end}" for name in ("score", "gain", "tpr_at_1_fpr")
      for end in ("", "_low", "_high")),
    *(f"multi_layer_{name}" for name in THRESHOLD_COLUMNS[1:5]),
)  # fmt: skip
"""The same in the summary: the layers, the form of the saved probe, its main score, its gain over
the best layer, and its thresholds."""

CURVE = ("model", "dataset", "position")
"""The columns that identify a curve. The position is empty where states were read from no text."""

RIVALS = (
    *("bag_of_words", "token_embeddings", "text_encoder", "length", "perplexity"),
    "random_weights",
)
"""What reads the same texts without the trained network, or only how likely it finds them."""

SAID = (
    *("said_auroc", "said_auroc_low", "said_auroc_high", "said_accuracy"),
    "said_accuracy_refitted_threshold",
)
"""Scores of what the model's own head reads at a layer; at the last one it is what it says."""

SAID_SUMMARY = (
    *("said_layer", *SAID, "said_next_token_share", "said_note"),
    *(f"readable_minus_said{end}" for end in ("", "_low", "_high")),
)
"""The same in the summary."""

USED = ("used_share", "used_share_low", "used_share_high", "used_p_value")
"""How far the model's answers move when the states of a layer are reflected."""

USED_SUMMARY = ("used_layer", *USED, "used_direction", "used_note")
"""The same in the summary, at the layer where they move most."""

INTERVENE = (
    *("model", "dataset", "position", "layer", "direction", "edit", "dose", "effect"),
    *("effect_low", "effect_high", "null_mean", "null_high", "p_value", "n_examples"),
    *("share", "share_low", "share_high", "said_auroc"),
)
"""The columns of ``intervene.parquet``."""

INTERVENE_EXAMPLES = (
    *("model", "dataset", "position", "layer", "direction", "edit", "example", "label", "text"),
    *("other_label", "log_odds", "log_odds_after", "says", "says_after"),
)
"""The columns of ``intervene_examples.parquet``."""

LINEAR = tuple(f"linearity_gap{end}" for end in ("", "_low", "_high", "_p_value", "_detectable"))
"""How much more a curved probe reads at a layer than a linear one."""
LINEAR_SUMMARY = (*LINEAR, "linearity_note", "rank", "redundancy")
"""The same in the summary, at the best layer; how many principal directions a probe needs there
(``rank``), and how many directions are each enough alone (``redundancy``)."""

WORST_TRANSFER = tuple(
    f"worst_transfer_{name}{end}"
    for name in ("auroc", "rank_correlation") for end in ("", "_low", "_high")
) + tuple(f"worst_transfer_{name}" for name in ("p_value", "train", "test"))  # fmt: skip
"""The worst score of a curve's probe on other sets."""

MASKED = tuple(name.replace("worst_transfer", "masked") for name in WORST_TRANSFER[:6])
MASKED += ("masked_field",)
"""The best score of a curve's probe on texts with a masked field."""

_OF_A_LAYER = (
    *("model", "dataset", "site", "position", "layer", "depth", "probe", "n_examples"),
    *("n_classes", "n_groups", "l2", "accuracy", "accuracy_low", "accuracy_high"),
    *("balanced_accuracy", "f1", "auroc", "log_loss", "majority_accuracy", "control_accuracy"),
    *("selectivity", "p_value", "main_score", "permutations", "repeats"),
    *(*SAID, *USED, *LINEAR, *MULTI_LAYER),
)
"""The first columns of the results; those of the other metrics follow."""
DEPTHS = (
    *("converging_layer", "jump_layer", "converging_depth", "jump_depth"),
    *("stays_above_half_depth", "falls_below_half_depth"),
)
"""Where a curve rises, jumps and converges, by its main metric."""
MAIN = ("accuracy", "r2", "auroc", "balanced_accuracy")
"""Metrics that can be the main one of a dataset."""
_OF_A_CURVE = (
    *("model", "parameters", "layers", "hidden_size", "dataset", "n_examples", "peak_layer"),
    *("peak_accuracy", "peak_p_value", *DEPTHS[:4], "majority_accuracy"),
    *("bag_of_words_accuracy", "random_weights_accuracy", "seconds_extract", "seconds_probe"),
    *("tokens", "unique_tokens", "position"),
    *(f"{name}{end}" for name in DEPTHS for end in ("", "_low", "_high")),
    *(f"peak_{metric}" for metric in MAIN),
    *(f"{rival}_{metric}" for metric in MAIN for rival in RIVALS),
    *(f"gain_over_{rival}{end}" for rival in RIVALS for end in ("", "_low", "_high")),
    *("main_score", "peak_score", "peak_p_value_adjusted"),
    *(*WORST_TRANSFER, *MASKED),
    *(*SAID_SUMMARY, *USED_SUMMARY, *LINEAR_SUMMARY, *METRICS["tpr_at_1_fpr"].columns),
    *(*THRESHOLD_COLUMNS, *MULTI_LAYER_SUMMARY),
    *("permutations", "relabellings", "repeats", "classes"),
)
_OF_AN_EXAMPLE = (
    *("model", "dataset", "repeat", "layer", "example", "fold", "label", "predicted", "score"),
    *("along", "across", "position"),
)

TRANSFER = (
    *("model", "train", "test", "position", "train_layer", "test_layer"),
    *("accuracy", "accuracy_refitted_threshold", "auroc", "auroc_low", "auroc_high"),
    *("p_value", "p_value_adjusted", "reads", "n_examples", "shared_units"),
    *("rank_correlation", "rank_correlation_low", "rank_correlation_high"),
    *("train_dataset", "test_dataset", "fitted_on", "masked", "note"),
)
"""The columns of ``transfer.parquet``."""
TRANSFER_LAYERS = (
    *("model", "train", "test", "position", "train_layer", "test_layer", "auroc"),
    *("rank_correlation", "train_dataset", "test_dataset", "fitted_on", "masked"),
)
"""The columns of ``transfer_layers.parquet``."""

_WORDS = (
    *("model", "dataset", "site", "position", "probe", "main_score", "classes", "label"),
    *("predicted", "text", "group", "fields", "rival", "train", "test", "reads", "note"),
    *("train_dataset", "test_dataset", "worst_transfer_train", "worst_transfer_test"),
    *("fitted_on", "masked", "masked_field"),
    *("said_note", "used_note", "linearity_note", "used_direction", "direction", "edit"),
    *("threshold_origin", "layers_read", "multi_layer", "multi_layer_form"),
    *("says", "says_after", "other_label"),
)
"""Columns of text; all other known columns hold numbers."""
_NUMBERED = ("layer", "example")
"""Columns of whole numbers, which are indices."""


def with_layer_columns(
    table: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """Return the results of one curve with columns that describe the states of a layer.

    Parameters
    ----------
    table
        The results, whose columns keep their order. A multi-layer probe has NaN in the new ones.
    rows
        A row for each ``layer`` that has them.
    """
    known = rows.set_index("layer")[list(columns)].reindex(table["layer"])
    known.loc[table["layers_read"].notna().to_numpy()] = np.nan
    return table.assign(**{name: known[name].to_numpy() for name in columns})


def wrong_column(rows: pd.DataFrame, table: str) -> str | None:
    """Return a column of a table that holds values of a wrong type; None without one.

    A known column holds either text or numbers; an unknown one may hold either.
    """
    known = columns_of(table)
    for column in rows.columns:
        values = rows[column].dropna()
        if column in _WORDS or column in _CURVES_COMPARED:
            is_right = is_string_dtype(values)
        elif column in _NUMBERED:
            # With gaps, pandas has no integers here; readers report missing numbers themselves.
            is_right = is_integer_dtype(values) or rows[column].hasnans
        elif column in known:
            is_right = is_numeric_dtype(values) and not is_bool_dtype(values)
        else:
            is_right = is_numeric_dtype(values) or is_string_dtype(values)
        if not is_right and not values.empty:
            return str(column)
    return None


def result_columns() -> list[str]:
    """Return the columns of the results: those that name a layer, then metrics with intervals."""
    metrics = (column for metric in METRICS.values() for column in metric.columns)
    return list(dict.fromkeys((*_OF_A_LAYER, *metrics)))


_CURVES_COMPARED = tuple(f"{name}_{end}" for end in "ab" for name in CURVE)

DIFFERENCES = (
    *_CURVES_COMPARED,
    "parameters_a", "parameters_b", "n_examples",
    "peak_layer_a", "peak_layer_b", "accuracy_a", "accuracy_b", "r2_a", "r2_b", "difference",
    "difference_low", "difference_high", "p_value", "stays_above_half_depth_a",
    "stays_above_half_depth_b", "stays_above_half_depth_difference",
    "stays_above_half_depth_difference_low", "stays_above_half_depth_difference_high", "agreement",
    "only_a", "only_b",
)  # fmt: skip
"""The columns of ``differences.parquet``: of two curves on the same examples, each at its own best
layer."""


def columns_of(table: str) -> list[str]:
    """Return the columns that a table of this version has; empty for unknown tables."""
    return {
        "results": result_columns(),
        "summary": list(dict.fromkeys(_OF_A_CURVE)),
        "predictions": list(_OF_AN_EXAMPLE),
        "rivals": "model dataset rival example predicted score position".split(),
        "learning_curve": "model dataset site position layer fraction accuracy r2".split(),
        "intervene": list(INTERVENE),
        "differences": list(DIFFERENCES),
        "intervene_examples": list(INTERVENE_EXAMPLES),
        "transfer": list(TRANSFER),
        "transfer_layers": list(TRANSFER_LAYERS),
        "examples": "dataset example text label group fields".split(),
    }.get(table, [])
