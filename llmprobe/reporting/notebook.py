"""What a notebook shows of an object: a small table and a picture, as one piece of HTML.

It loads nothing, all words in it are escaped, and it has less than `MOST_BYTES`.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from llmprobe.ground.errors import UserError
from llmprobe.ground.text import elide, number_text
from llmprobe.reporting.charts.heatmaps import heatmap
from llmprobe.reporting.charts.style import png
from llmprobe.reporting.charts.transfer import transfer_heatmap
from llmprobe.reporting.terminal import curve_numbers
from llmprobe.results.curve import Curve, main_metrics
from llmprobe.results.evidence import all_evidence, evidence_of
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import SavedProbe
from llmprobe.results.trace import Trace
from llmprobe.results.transfer import TransferMatrix

if TYPE_CHECKING:
    from llmprobe.datasets.dataset import ConceptDataset
    from llmprobe.extraction.activations import Activations

MOST_BYTES = 200_000
"""The most bytes of one object, so that a notebook with many stays small."""
_MOST_ROWS = 20
_LONGEST_CELL = 300
_RESOLUTION = 144
"""Pixels per inch of a picture, unless it gets too large with as many."""
_COLOURS = 256
"""The most colours of a picture: those of the scale and their edges."""

Shown = tuple[list[Markup], Figure | None, str]
"""Pieces of HTML, the picture below them, and what that shows in words."""


def html_of(thing: object) -> str:
    """Return what a notebook shows of a result, a dataset, states, a trace or a probe."""
    names = [kind.__name__ for kind in type(thing).__mro__]
    pieces, figure, alt = _SHOWN[next(name for name in names if name in _SHOWN)](thing)
    html = str(Markup("<div>{}</div>").format(Markup("\n").join(pieces)))
    return html if figure is None else html + _picture(figure, alt, MOST_BYTES - len(html.encode()))


def _results(results: Results) -> Shown:
    shown = results.curves[:_MOST_ROWS]
    evidence = all_evidence(shown, results.environment.get("datasets", []))
    rows = [[*_numbers(curve), one.line] for curve, one in zip(shown, evidence, strict=True)]
    header = [*_HEADER, "evidence"]
    more = _more(len(results.curves), "curves", ".summary")
    return [_title(results), _table(header, rows), *more], *_heatmap(shown)


def _curve(curve: Curve) -> Shown:
    verdict = _line(evidence_of(curve).line)
    return [_title(curve), _table(_HEADER, [_numbers(curve)]), verdict], *_heatmap([curve])


def _transfer(matrix: TransferMatrix) -> Shown:
    rows = [
        [cell["model"], cell["train"], cell["test"], number_text(cell["train_layer"], ".0f"),
         _interval(*(cell[f"auroc{end}"] for end in ("", "_low", "_high"))), cell["reads"]]
        for cell in matrix.table.head(_MOST_ROWS).to_dict("records")
    ]  # fmt: skip
    header = ["model", "fitted on", "scored on", "layer", "AUROC", "reads the concept"]
    more = _more(len(matrix.table), "cells", ".table")
    drawn = None if matrix.table.empty else transfer_heatmap(matrix)
    return (
        [_title(matrix), _table(header, rows), *more],
        drawn,
        "Heatmap: AUROC by the set that probes were fitted on and the set they were scored on.",
    )


def _dataset(dataset: ConceptDataset) -> Shown:
    facts: dict[str, Any] = {"asks": dataset.description}
    if dataset.labels.dtype.kind == "f":
        facts["labels"] = f"numbers from {dataset.labels.min():.4g} to {dataset.labels.max():.4g}"
    else:
        counts = Counter(dataset.labels.tolist()).most_common(10)
        names = dataset.class_names
        facts["labels"] = ", ".join(
            f"{names.get(str(label), label)} ({count:,})" for label, count in counts
        )
    if len(dataset.classes) > 10 and dataset.labels.dtype.kind != "f":
        facts["labels"] += f" and {len(dataset.classes) - 10:,} more"
    facts |= {"template": dataset.filled, "source": dataset.source, "licence": dataset.licence}
    header = ["text", "label"] + ([] if dataset.groups is None else ["group"])
    some = dataset.take(range(min(8, len(dataset))))
    columns = [some.texts, some.labels] + ([] if some.groups is None else [some.groups])
    more = _more(len(dataset), "texts", ".to_pandas()", len(some))
    examples = _table(header, zip(*columns, strict=True))
    return [_title(dataset), _facts(facts), examples, *more], None, ""


def _activations(activations: Activations) -> Shown:
    known = activations.facts
    facts = {
        "model": known.get("model"), "dataset": repr(activations.dataset),
        "site": known.get("site"), "position": ", ".join(activations.positions),
        "layers": ", ".join(map(str, activations.layers)),
        "each layer": f"[n, {known['hidden_size']}] float32, computed in {known.get('dtype')}",
        "tokens": _count(known.get("tokens")), "computed once": _count(known.get("unique_tokens")),
        "way": known.get("way"), "seconds": number_text(known.get("seconds"), ".1f"),
    }  # fmt: skip
    return [_title(activations), _facts(facts)], None, ""


def _trace(trace: Trace) -> Shown:
    from llmprobe.reporting.trace.figure import trace_figure
    from llmprobe.reporting.trace.view import TraceView

    view = TraceView(trace)
    facts = {"text": trace.text, "": trace.title, "colour": view.meaning, "care": view.caution}
    drawn = trace_figure(trace) if trace.tokens and trace.layers else None
    return [_title(trace), _facts(facts)], drawn, "Heatmap: layers upward, tokens to the right."


def _probe(probe: SavedProbe) -> Shown:
    from llmprobe.reporting.export import scored_metrics, scores_figure

    names = ("model", "dataset", "site", "position", "kind", "template")
    facts = {name: probe.facts.get(name) for name in names}
    facts |= {"classes": ", ".join(probe.class_names) or "none: it predicts a number"}
    facts |= {"layers": ", ".join(map(str, probe.layers))}
    metrics = scored_metrics(probe) if probe.scores else []
    for metric in metrics[:1]:
        ends = (probe.scores.get(f"{metric}{end}") for end in ("", "_low", "_high"))
        place = probe.layers.index(probe.best_layer)
        numbers = _interval(*(end[place] if end else None for end in ends))
        facts["best layer"] = f"{probe.best_layer}: {metric} {numbers}, out-of-fold"
    drawn = scores_figure(probe, metrics[0]) if metrics else None
    return [_title(probe), _facts(facts)], drawn, "Line chart: the score of each layer."


_SHOWN: Mapping[str, Callable[[Any], Shown]] = {
    "Results": _results,
    "Curve": _curve,
    "TransferMatrix": _transfer,
    "ConceptDataset": _dataset,
    "Activations": _activations,
    "Trace": _trace,
    "SavedProbe": _probe,
}
"""By the name of the class, since importing some of these classes loads torch."""

_HEADER = ["model", "dataset", "score", "n", "chance", "words", "value", "layer", "AUROC"]


def _numbers(curve: Curve) -> list[str]:
    numbers = curve_numbers(curve)
    cells = (numbers[name] for name in ("n", "chance", "words", "score", "layer", "AUROC"))
    return [curve.model, curve.title, curve.metric.label, *cells]


def _heatmap(curves: Sequence[Curve]) -> tuple[Figure | None, str]:
    """Return the heatmap of the curves that have the first one's main metric, if any has."""
    for metric in main_metrics(curves)[:1]:
        try:
            return heatmap(curves, metric.name), f"Heatmap: the {metric.label} of each layer."
        except UserError:  # No layer was scored, or chance is not known.
            break
    return None, ""


def _title(thing: object) -> Markup:
    return Markup("<div><b>{}</b></div>").format(_cell(repr(thing)))


def _line(text: str) -> Markup:
    return Markup("<div>{}</div>").format(_cell(text))


def _facts(facts: Mapping[str, Any]) -> Markup:
    return _table([], [pair for pair in facts.items() if pair[1]])


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table; the header may be empty."""
    lines = [_row("th", header)] if header else []
    lines += [_row("td", row) for row in rows]
    return Markup("<table>{}</table>").format(Markup("\n").join(lines))


def _row(tag: str, cells: Iterable[object]) -> Markup:
    open_, close = Markup(f'<{tag} style="text-align:left">'), Markup(f"</{tag}>")
    inside = Markup("").join(open_ + _cell(cell) + close for cell in cells)
    return Markup("<tr>{}</tr>").format(inside)


def _cell(value: object) -> Markup:
    """Return a value as escaped text of one line, cut in the middle if it is long."""
    return Markup("{}").format(elide(" ".join(str(value).split()), _LONGEST_CELL))


def _more(n: int, what: str, where: str, shown: int = _MOST_ROWS) -> list[Markup]:
    """Say how many are left out, and what has them; nothing if none are."""
    return [_line(f"{n - shown:,} more {what} are left out here: {where}")] if n > shown else []


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    ends = "" if low is None or np.isnan(low) else f" [{number_text(low)}, {number_text(high)}]"
    return number_text(value) + ends


def _count(value: float | None) -> str:
    return number_text(value, ",.0f")


def _picture(figure: Figure, alt: str, most: int) -> str:
    """Return a figure as an image of at most ``most`` bytes, coarser if needed."""
    drawn = Image.open(BytesIO(png(figure, _RESOLUTION))).convert("RGB")
    content = most * b"x"
    while len(content) > most - 500:
        small = BytesIO()
        drawn.quantize(_COLOURS).save(small, "png", optimize=True)
        content, drawn = b64encode(small.getvalue()), drawn.reduce(2)
    image = Markup('<img alt="{}" style="width:{}in;max-width:100%" src="{}">').format(
        alt, f"{figure.get_size_inches()[0]:.2f}", f"data:image/png;base64,{content.decode()}"
    )
    return str(image)
