"""One self-contained page: what was found, the figures, every number, and how to make it again."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from llmprobe.reporting import SCORE_NAMES, Peak, elide, layer_names, main_score, peaks
from llmprobe.reporting.figures import draw_figures, png, svg

_LONGEST_NAME = 32
_MOST_LAYER_ROWS = 4000
_MOST_FIGURE_BYTES = 1_500_000


class Table(NamedTuple):
    """A table of text, ready for the page; the first cell of a row is its heading."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without(self, optional: Sequence[str]) -> Table:
        """Without those of the ``optional`` columns that say nothing in any row."""
        keep = [
            i
            for i, header in enumerate(self.headers)
            if header not in optional or any(row[i] != "–" for row in self.rows)
        ]
        return Table(
            self.caption,
            [self.headers[i] for i in keep],
            [[row[i] for i in keep] for row in self.rows],
        )


class Picture(NamedTuple):
    """A figure, ready for the page."""

    caption: str
    alt: str
    source: str
    """A ``data:`` address that holds the image."""
    width: float
    """In inches, on paper."""


def write_report(
    path: Path,
    results: pd.DataFrame,
    summary: pd.DataFrame,
    models: Sequence[Mapping[str, str]],
    title: str,
    config: str,
    environment: Mapping[str, Any],
    command: str,
    permutations: int | None = None,
    findings: Sequence[str] = (),
    illustrations: Mapping[str, tuple[Figure, str, str]] | None = None,
    held_out: bool = False,
) -> Path:
    """Write the page to ``path``: it loads nothing, so it can be mailed or archived as one file.

    Parameters
    ----------
    path
        Where the page goes.
    results, summary
        A row for each model × dataset × layer, and for each model × dataset.
    models
        What is known of each model: ``name``, ``source``, ``licence``, ``precision``.
    title
        The name of the run.
    config
        The resolved config of the run, as YAML.
    environment
        Versions and hardware; mappings in it are shown flat.
    command
        What to type to make the page again.
    permutations
        Refits behind each p-value: with fewer than 19, none is small enough to say much.
    findings
        Sentences that stand before those about the best layers.
    illustrations
        Name → figure, caption, text alternative: shown before the figures of the tables.
    held_out
        Whether the examples of the results are a test set, in the place of folds.
    """
    template = files("llmprobe.reporting").joinpath("report.html.jinja").read_text("utf-8")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found = peaks(results, summary, permutations)
    illustrated, left_out, size = _pictures(illustrations or {}, _MOST_FIGURE_BYTES)
    pictures, left_out_here, _ = _pictures(
        _captioned(draw_figures(results, summary)), _MOST_FIGURE_BYTES - size
    )
    layer_tables, left_out_tables = _layer_tables(results)
    page = jinja.from_string(template).render(
        title=title,
        findings=[*findings, *map(headline, found)],
        illustrations=illustrated,
        pictures=pictures,
        left_out_pictures=[*left_out, *left_out_here],
        named_layers=bool(layer_names(results)),
        held_out=held_out,
        summary_table=_summary_table(summary, found, SCORE_NAMES[main_score(results)], held_out),
        cost_table=_cost_table(summary),
        layer_tables=layer_tables,
        left_out_tables=left_out_tables,
        models_table=Table(
            "Models, and how their weights were held",
            ("model", "source", "licence", "precision"),
            [
                [model.get(key) or "–" for key in ("name", "source", "licence", "precision")]
                for model in models
            ],
        ),
        environment_table=Table(
            "Versions and hardware", ("what", "value"), list(_flat(environment))
        ),
        config=config,
        command=command,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def headline(peak: Peak) -> str:
    """What was found, in a sentence: where, how well, and against what.

    ``gemma-3-270m: capitals is readable best at layer 13 of 18: 0.90 [0.88, 0.92], chance 0.50``;
    in a plain network, ``layer 8 (fc1_postact) of 9``.
    """
    if peak.layer is None or isnan(peak.score):
        return f"{peak.model}: {peak.dataset} was not scored"
    place = f"layer {_layer(peak)}" + ("" if peak.blocks is None else f" of {peak.blocks}")
    parts = [f"{peak.score:.2f}{_interval(peak)}", f"chance {_number(peak.chance)}"]
    if not isnan(peak.bag_of_words):
        parts.append(f"bag of words {peak.bag_of_words:.2f}")
    if not isnan(peak.p_value):
        parts.append(f"p = {_p(peak.p_value)}" if peak.p_value >= 0.001 else "p < 0.001")
    found = (
        f"is readable best at {place}"
        if peak.above_chance
        else f"is not above chance, even at its best layer ({place})"
    )
    return f"{peak.model}: {peak.dataset} {found}: {', '.join(parts)}"


def _captioned(figures: Mapping[str, Figure]) -> dict[str, tuple[Figure, str, str]]:
    """The figures of the tables with captions and text alternatives, in the order of the page."""
    return {name: (figures[name], *said) for name, said in _CAPTIONS.items() if name in figures}


def _pictures(
    figures: Mapping[str, tuple[Figure, str, str]], most_bytes: int
) -> tuple[list[Picture], list[str], int]:
    """The figures as images in the smaller of two formats.

    -> those that go into ``most_bytes``, the names of the others, and the bytes that are used
    """
    pictures, left_out, size = [], [], 0
    for name, (figure, caption, alt) in figures.items():
        kind, content = min(
            ("svg+xml", svg(figure)), ("png", png(figure, dpi=144)), key=lambda image: len(image[1])
        )
        if size + len(content) > most_bytes:
            left_out.append(name)
            continue
        size += len(content)
        source = f"data:image/{kind};base64,{b64encode(content).decode()}"
        pictures.append(Picture(caption, alt, source, figure.get_figwidth()))
    return pictures, left_out, size


_HEATMAP_ALT = "Heatmap: a panel for each model, a row for each dataset, a column for each layer; "
_CAPTIONS = {
    "heatmap_accuracy": (
        "Accuracy of a probe on each layer. Blue is above chance, orange below it, hatched not "
        "scored; the dot is the best layer of the row.",
        _HEATMAP_ALT + "colour is the accuracy. The tables below hold the same numbers.",
    ),
    "heatmap_r2": (
        "R² of a probe on each layer: 0 is what the mean of all labels reaches, orange is worse "
        "than that; the dot is the best layer of the row.",
        _HEATMAP_ALT + "colour is the R². The tables below hold the same numbers.",
    ),
    "curves": (
        "The same accuracies as curves, with their 95 % intervals. Dashed: always answering the "
        "most frequent class. Dotted, if any: a classifier on the words alone.",
        "Line chart: a panel for each dataset, a line for each model, accuracy over layers. "
        "The tables below hold the same numbers.",
    ),
    "depth": (
        "How deep each concept is read best (filled), and where its accuracy has converged "
        "(hollow). Pale, if any: no better than shuffled labels.",
        "Dot chart: a row for each dataset, the relative depth of the best and of the converging "
        "layer for each model. The summary table holds the same numbers.",
    ),
    "heatmap_auroc": (
        "Area under the ROC curve: how well the probe ranks examples, whatever its threshold.",
        _HEATMAP_ALT + "colour is the AUROC.",
    ),
    "heatmap_selectivity": (
        "Selectivity: the score minus that of the same probe on a random label for each group, "
        "with rows of a group in training and test. Below zero, groups are easier to tell apart "
        "than the concept is to read; the accuracy itself cannot gain by that.",
        _HEATMAP_ALT + "colour is the selectivity.",
    ),
    "heatmap_balanced_accuracy": (
        "Balanced accuracy: the mean over classes of the share of each that is recognised.",
        _HEATMAP_ALT + "colour is the balanced accuracy.",
    ),
}
"""Caption and text alternative of each figure, in the order of the page."""


def _summary_table(
    summary: pd.DataFrame, found: Sequence[Peak], score: str, held_out: bool
) -> Table:
    """One row for each model × dataset."""
    headers = (
        *("model", "dataset", "test examples" if held_out else "examples"),
        *("best layer", f"{score} there", "AUROC there", "p"),
        *("chance", "bag of words", "random weights", "jump layer", "converging layer"),
        "half-rise depth",
    )
    rows = [
        [
            elide(peak.model, _LONGEST_NAME),
            elide(peak.dataset, _LONGEST_NAME),
            _whole(peak.n_examples),
            f"{_layer(peak)} of {_whole(peak.blocks)}",
            _number(peak.score) + _interval(peak),
            _number(peak.auroc),
            _p(peak.p_value),
            _number(peak.chance),
            _number(peak.bag_of_words),
            _number(row["random_weights_accuracy"]),
            _whole(row["jump_layer"]),
            _whole(row["converging_layer"]),
            _number(row.get("half_rise_depth")),
        ]
        for peak, row in zip(found, summary.to_dict("records"), strict=True)
    ]
    table = Table("The best layer of each model on each dataset", headers, rows)
    return table.without(_OPTIONAL)


def _cost_table(summary: pd.DataFrame) -> Table:
    """What each model × dataset took, as far as it was counted."""
    columns = ("tokens", "unique_tokens", "seconds_extract", "seconds_probe")
    headers = ("model", "dataset", "tokens", "unique tokens", "seconds reading", "seconds probing")
    rows = [
        [
            *(elide(row[column], _LONGEST_NAME) for column in ("model", "dataset")),
            *(_whole(row[column]) for column in columns),
        ]
        for row in summary.to_dict("records")
    ]
    return Table("What it cost", headers, rows).without(headers)


def _layer_tables(results: pd.DataFrame) -> tuple[list[Table], list[str]]:
    """A table for each model × dataset × probe, and the captions of those that are too many."""
    tables, left_out, n_rows = [], [], 0
    score = main_score(results)
    headers = ("layer", "point", SCORE_NAMES[score], "95 % interval", *_LAYER_HEADERS)
    for (model, dataset, probe), layers in results.groupby(
        ["model", "dataset", "probe"], sort=False
    ):
        caption = f"{model}, {dataset}, {probe} probe"
        if n_rows + len(layers) > _MOST_LAYER_ROWS:
            left_out.append(caption)
            continue
        n_rows += len(layers)
        names = layer_names(layers)
        rows = [
            [
                _whole(row["layer"]),
                elide(names.get(row["layer"], "–"), _LONGEST_NAME),
                _number(row[score]),
                f"{_number(row[f'{score}_low'])} – {_number(row[f'{score}_high'])}",
                *(_number(row.get(column)) for column in _LAYER_COLUMNS),
                _p(row["p_value"]),
                _number(row["l2"], ".3g"),
            ]
            for row in layers.sort_values("layer").to_dict("records")
        ]
        tables.append(Table(caption, headers, rows).without(_OPTIONAL))
    return tables, left_out


_LAYER_COLUMNS = (
    *("balanced_accuracy", "f1", "auroc", "log_loss", "brier", "ece", "rank_correlation"),
    *("control_accuracy", "control_r2", "selectivity", "random_weights_accuracy", "code_length"),
    "compression",
)
_LAYER_HEADERS = (
    *("balanced accuracy", "F1", "AUROC", "log loss", "Brier", "ECE", "rank correlation"),
    *("random labels", "random labels’ R²", "selectivity", "random weights"),
    *("description length (kbit)", "compression", "p", "L2 penalty"),
)


_OPTIONAL = (
    "point", *_LAYER_HEADERS, "bag of words", "AUROC there", "jump layer", "converging layer",
    "half-rise depth",
)  # fmt: skip
"""Columns that are left out where they say nothing."""


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"torch": {"version": 2}}`` as ``("torch.version", "2")``."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _layer(peak: Peak) -> str:
    """Its number, and in a plain network its name."""
    name = peak.layer_name
    return _whole(peak.layer) + ("" if name is None else f" ({elide(name, _LONGEST_NAME)})")


def _interval(peak: Peak) -> str:
    return "" if isnan(peak.low) else f" [{peak.low:.2f}, {peak.high:.2f}]"


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if pd.isna(value) else format(value, form)


def _whole(value: float | None) -> str:
    return _number(value, ",.0f")


def _p(value: float | None) -> str:
    return "< 0.001" if pd.notna(value) and value < 0.001 else _number(value, ".3f")
