"""One self-contained page: findings, where to look, every number, how to make it again."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from itertools import count
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from llmprobe.ground.files import write_text
from llmprobe.ground.text import flatten
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.style import CLASS_COLOURS, COLOURS
from llmprobe.reporting.description import Description
from llmprobe.reporting.page.assets import asset, template
from llmprobe.reporting.page.compared import Compared
from llmprobe.reporting.page.payload import as_json, descriptions, payload
from llmprobe.reporting.page.pictures import (
    MOST_FIGURE_BYTES,
    as_pictures,
    captioned,
    drawn_by_script,
)
from llmprobe.reporting.page.tables import (
    Table,
    cost_table,
    layer_tables,
    monitor_table,
    summary_table,
)
from llmprobe.reporting.page.used import examples_of_use
from llmprobe.reporting.trace.view import TraceView, shade_style
from llmprobe.results.curve import Curve, layer_names
from llmprobe.results.questions import MARGIN, MARKS, QUESTIONS, TRANSFER_MARGIN, Evidence
from llmprobe.results.results import Results

_MOST_FILE_BYTES = 1_000_000
_TRACE_SIZE = 40, 50
"""Most tokens and layers of a trace."""
_SCRIPTS = (
    "state",
    "charts",
    "heatmap",
    "layer",
    "clouds",
    "curves",
    "examples",
    "transfer",
    "start",
)
_DARK_MAP = LinearSegmentedColormap.from_list(
    "dark",
    [
        "#ffd9b0",
        "#f0a050",
        "#b35d18",
        "#5f3a1e",
        "#272d34",
        "#1d4a6b",
        "#2579ad",
        "#62b0e6",
        "#d3ecff",
    ],
)
"""Like CHANCE_MAP, but dark at chance, for the dark page."""


class Card(NamedTuple):
    """One model on one dataset: the verdict, and the answers that it is written from."""

    name: str
    """Model and dataset."""
    about: str
    """What the dataset asks; only for the first model on it, else empty."""
    where: str
    """At which depths it stays above half of its rise; may be empty."""
    evidence: Evidence
    """The answers."""
    curve: int | None
    """Its place among the curves of the script's data."""


def write_report(
    path: Path, run: Results, figures: Mapping[str, Figure], about: Description
) -> Path:
    """Write the page to ``path``: it loads nothing, so it can be mailed or archived as one file.

    Parameters
    ----------
    path
        Where the page goes.
    run
        Tables, and what they came from.
    figures
        Those of the run, by the names of their files.
    about
        What the page says beside them; its illustrations stand before all other figures.
    """
    compared = about.compared
    tables, left_out_tables = layer_tables(run.table)
    files_in_page, left_out_files = _downloads(run, compared)
    illustrated, left_out, size = as_pictures(about.illustrations, MOST_FIGURE_BYTES)
    pictures, left_out_here, _ = as_pictures(captioned(figures), MOST_FIGURE_BYTES - size)
    script = "\n".join(map(asset, (f"{name}.js" for name in _SCRIPTS)))
    scripts = [_closed(text) for text in (vega(), f"{{\n{script}\n}}")]
    named, cards = bool(layer_names(run.curves)), _cards(run)
    environment = {
        key: value for key, value in run.environment.items() if key not in ("models", "datasets")
    }
    page = template("page.html.jinja").render(
        title=about.title,
        style=Markup(asset("page.css") + (shade_style() if about.traces else "")),
        script_hashes=Markup(" ".join(map(_hash, scripts))),
        scripts=[Markup(text) for text in scripts],
        data=Markup(as_json(payload(run) | {"files": files_in_page} | _colours())),
        transfer=run.transfer_matrix is not None,
        notes=run.notes,
        findings=[*about.findings, *([] if compared is None else compared.sentences())],
        cards=cards,
        asked=[
            key
            for key in QUESTIONS
            if key == "above_chance"
            or any(card.evidence.questions[key].answer != "not asked" for card in cards)
        ],
        questions=QUESTIONS,
        marks=MARKS,
        margin=MARGIN,
        transfer_margin=TRANSFER_MARGIN,
        illustrations=list(illustrated.values()),
        pictures=[picture for name, picture in pictures.items() if not drawn_by_script(name)],
        plain_pictures=[picture for name, picture in pictures.items() if drawn_by_script(name)],
        left_out_pictures=[*left_out, *left_out_here],
        left_out_files=left_out_files,
        heatmap_note=_HEATMAP_NOTE.format(
            first="the input" if named else "the embedding",
            last="the output" if named else "the last block",
        ),
        named_layers=named,
        held_out=about.held_out,
        summary_table=summary_table(run.curves, about.held_out),
        compared=[] if compared is None else compared.tables(),
        monitor_table=monitor_table(run.curves),
        used=examples_of_use(run),
        cost_table=cost_table(run.summary),
        layer_tables=tables,
        left_out_tables=left_out_tables,
        traces=[TraceView(trace, *_TRACE_SIZE) for trace in about.traces],
        models_table=_facts_table(
            "Models, and how their weights were held", "model", run.environment["models"],
            ("source", "licence", "precision"),
        ),
        datasets_table=_facts_table(
            "Datasets", "dataset", run.environment["datasets"], ("source", "licence", "version")
        ),
        environment_table=Table(
            "Versions and hardware",
            ("what", "value"),
            [(key, str(value)) for key, value in flatten(environment)],
        ),
        config=run.config,
        command=about.command,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name may have half of a surrogate pair, which a file cannot hold.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    return path


def depth_sentence(curve: Curve) -> str:
    """Return a sentence about the depths at which a concept can be read; empty for none.

    ``From depth 0.31 [0.25, 0.40] (near layer 6) on it stays above half of its rise from chance.``
    """
    start = curve.shown("stays_above_half_depth")
    if isnan(start) or curve.blocks is None:
        return ""
    whence = _place(curve, "stays_above_half_depth") if start > 0 else "the first layer"
    if curve.falls_again:
        return (
            f"It comes and goes: above half of its rise from chance only from {whence} to "
            f"{_place(curve, 'falls_below_half_depth')}."
        )
    return f"From {whence} on it stays above half of its rise from chance."


@cache
def vega() -> str:
    """Return the script of Vega and Vega-Lite, which draw the plots."""
    import vl_convert

    script: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]
    return script


def _closed(script: str) -> str:
    """Return a script in which nothing can end the element that holds it."""
    return re.sub(r"<(/script|!--)", r"\\x3c\1", script.replace("\r\n", "\n"), flags=re.IGNORECASE)


def _hash(script: str) -> str:
    """Return the entry of the content security policy that allows this script alone."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def _colours() -> dict[str, Any]:
    """Return the colours of models and classes, and of scores from worst over chance to best."""
    steps = [i / 64 for i in range(65)]
    maps = {"light": CHANCE_MAP, "dark": _DARK_MAP}
    return {
        "colours": COLOURS,
        "class_colours": CLASS_COLOURS,
        "ramps": {
            name: [to_hex(colours(step)) for step in steps] for name, colours in maps.items()
        },
    }


def _cards(run: Results) -> list[Card]:
    """Return a card for each curve; models of one dataset stand beside each other."""
    abouts = descriptions(run.environment["datasets"])
    places, cards = count(), dict[str, list[Card]]()
    for curve, evidence in zip(run.curves, run.evidence, strict=True):
        card = Card(
            name=f"{curve.model} on {curve.title}",
            about="" if curve.title in cards else abouts.get(curve.dataset, ""),
            where=depth_sentence(curve),
            evidence=evidence,
            curve=next(places) if len(curve.rows) else None,
        )
        cards.setdefault(curve.title, []).append(card)
    return [card for group in cards.values() for card in group]


def _place(curve: Curve, name: str) -> str:
    """Return ``depth 0.31 [0.25, 0.40] (near layer 9)``."""
    depth, low, high = (curve.number(f"{name}{end}") for end in ("", "_low", "_high"))
    within = "" if isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return f"depth {depth:.2f}{within} (near layer {round(depth * (curve.blocks or 0))})"


def _downloads(run: Results, compared: Compared | None) -> tuple[dict[str, str], list[str]]:
    """Return the tables as CSV, and the names of those that are too large."""
    tables = {"results.csv": run.table, "summary.csv": run.summary}
    if compared is not None:
        tables["differences.csv"] = compared.differences
    texts = {name: table.to_csv(index=False, float_format="%.6g") for name, table in tables.items()}
    small = {name: text for name, text in texts.items() if len(text) <= _MOST_FILE_BYTES}
    return small, [name for name in texts if name not in small]


def _facts_table(
    caption: str, what: str, facts: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> Table:
    rows = [[str(fact.get(key) or "–") for key in ("name", *keys)] for fact in facts]
    return Table(caption, (what, *keys), rows)


_HEATMAP_NOTE = (
    "From {first} to {last}. Blue is above chance, orange below it; the dot is the best layer."
)
