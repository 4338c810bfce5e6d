"""The page is one file that says what was found, shows every number and trusts no name."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic_runs import curve_of

from llmprobe.reporting.description import Description
from llmprobe.reporting.page import page
from llmprobe.reporting.page import tables as page_tables
from llmprobe.results.curve import curves_of
from llmprobe.results.evidence import evidence_of
from llmprobe.results.figures import draw_figures
from llmprobe.results.results import Results

Tables = tuple[pd.DataFrame, pd.DataFrame]
EVIL = "<script>alert('x')</script>"
PICTURES = ("heatmap_accuracy", "curves", "heatmap_by_model", "depth")
"""Those of two models on two datasets, where they fit; the first two are for pages without
scripts, and stand in their place."""
SCRIPTS = [{"type": "application/json", "id": "data"}, {"type": "module"}, {"type": "module"}]
"""Those of the page: what it draws, the library that draws, and what it draws with it."""


class Outline(HTMLParser):
    """What the tests ask of a page: its tags with their attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.words += data
        elif self.cdata_elem == "script":
            self.scripts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(path: Path, tables: Tables, name: str = "quickstart", **options: Any) -> str:
    nothing = pd.DataFrame(columns=["model", "dataset", "example"])
    facts = {"name": name, "source": name, "licence": name}
    run = Results(
        *tables,
        *(nothing, nothing),
        examples=nothing,
        folder=path.parent,
        environment={
            "python": "3.12.4",
            "hardware": {"cpu": name},
            "models": [facts | {"precision": f"4-bit {name}"}],
            "datasets": [facts],
        },
        config=f"name: {name}\nmodels: [a]\n",
        notes=options.pop("notes", ()),
    )
    figures = draw_figures(run)
    page.write_report(
        path, run, figures, Description(title=name, command=f"llmprobe report {name}", **options)
    )
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(tables: Callable[..., Tables], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the tables of ``two_by_two``, written once for the tests that only read it."""
    two_by_two = tables({"smollm2-135m": 30, "gemma-3-270m": 18}, ["capitals", "coin_flip"])
    return write(tmp_path_factory.mktemp("page") / "report.html", two_by_two)


def depths(curve_is: str = "above chance", **ends: float) -> str:
    """The sentence of a curve with these ends, each within 0.1."""
    within = {
        f"{name}{end}": depth + by
        for name, depth in ends.items()
        for end, by in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }
    low = 0.88 if curve_is == "above chance" else 0.4
    return page.depth_sentence(curve_of(low=low, **within))


def test_a_sentence_says_from_which_depth_on_a_concept_is_readable() -> None:
    assert depths(stays_above_half_depth=0.31) == (
        "From depth 0.31 [0.21, 0.41] (near layer 6) on it stays above half of its rise from "
        "chance."
    )
    assert depths(stays_above_half_depth=0.0).startswith("From the first layer on it stays above")
    assert depths() == depths("by luck", stays_above_half_depth=0.31) == ""


def test_a_sentence_says_that_a_concept_comes_and_goes() -> None:
    assert depths(stays_above_half_depth=0.31, falls_below_half_depth=0.6) == (
        "It comes and goes: above half of its rise from chance only from depth 0.31 [0.21, 0.41] "
        "(near layer 6) to depth 0.60 [0.50, 0.70] (near layer 11)."
    )
    assert " only from the first layer to depth 0.60 " in depths(
        stays_above_half_depth=0, falls_below_half_depth=0.6
    )


def test_page_shows_every_number(html: str, two_by_two: Tables) -> None:
    results, summary = two_by_two
    words = Outline(html).words
    assert "quickstart" in html[html.index("<h1>") : html.index("</h1>")]
    for curve in curves_of(results, summary):
        assert f"{curve.model} on {curve.dataset}: {evidence_of(curve).line}" in words
    cells = Counter(re.findall(r"<td>([^<]*)</td>", html))
    for metric in ("accuracy", "auroc", "log_loss"):
        for value, count in Counter(f"{value:.2f}" for value in results[metric]).items():
            assert cells[value] >= count
    for row in summary.to_dict("records"):
        assert f"<td>{row['peak_layer']} of {row['layers']}</td>" in html
    for said in ("llmprobe report quickstart", "4-bit quickstart", "hardware.cpu", "3.12.4"):
        assert said in words
    assert "name: quickstart\nmodels: [a]\n" in words


def test_page_trusts_no_name(tables: Callable[..., Tables], tmp_path: Path) -> None:
    html = write(tmp_path / "report.html", tables({EVIL: 3}, [f'"{EVIL}']), name=EVIL)
    outline = Outline(html)
    assert outline.all("script") == SCRIPTS
    assert EVIL in outline.words
    data = json.loads(outline.scripts[0])
    assert data["models"][0]["name"] == EVIL
    assert data["datasets"][0]["name"] == f'"{EVIL}'
    attributes = {attribute for _, attributes in outline.tags for attribute in attributes}
    assert attributes == {
        attribute
        for _, attributes in Outline(write(tmp_path / "tame.html", tables({"m": 3}, ["d"]))).tags
        for attribute in attributes
    }


def test_the_menu_leads_to_every_section(html: str) -> None:
    outline = Outline(html)
    ids = {attributes.get("id") for _, attributes in outline.tags} - {None}
    links = {str(link["href"]) for link in outline.all("a") if str(link["href"]).startswith("#")}
    assert len(links) > 5
    assert {link.removeprefix("#") for link in links} <= ids
    sections = [section.get("id") for section in outline.all("section")]
    assert links >= {f"#{name}" for name in sections if name}


def test_no_script_runs_but_those_of_the_page(html: str) -> None:
    outline = Outline(html)
    assert outline.all("script") == SCRIPTS
    (policy,) = (str(meta["content"]) for meta in outline.all("meta") if "http-equiv" in meta)
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    _, *run = outline.scripts
    assert {b64encode(sha256(script.encode()).digest()).decode() for script in run} == allowed
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert not any(name.startswith("on") for _, names in outline.tags for name in names)


def test_page_loads_nothing(html: str) -> None:
    outline = Outline(html)
    for tag in ("link", "iframe", "object", "embed", "base"):
        assert not outline.all(tag)
    assert not any("src" in script for script in outline.all("script"))
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (meta for meta in outline.all("meta") if "http-equiv" in meta)
    assert str(policy["content"]).startswith("default-src 'none'")
    images = outline.all("img")
    assert len(images) == len(PICTURES)
    for image in images:
        header, content = str(image["src"]).split(",")
        assert re.fullmatch(r"data:image/(png|svg\+xml);base64", header)
        if "svg" in header:
            references = re.findall(r'href="([^"]*)"', b64decode(content).decode())
            assert all(reference.startswith(("#", "data:")) for reference in references)


def test_page_is_accessible(html: str) -> None:
    outline = Outline(html)
    assert all(image["alt"] for image in outline.all("img"))
    drawn_by_script = [table for table in outline.all("table") if "id" in table]
    assert len(outline.all("caption")) == len(outline.all("table")) - len(drawn_by_script) > 4
    assert all("scope" in header for header in outline.all("th"))
    assert len(outline.all("h1")) == 1
    assert outline.all("html") == [{"lang": "en"}]


def test_page_is_the_same_each_time(html: str, two_by_two: Tables, tmp_path: Path) -> None:
    assert html == write(tmp_path / "report.html", two_by_two)


def test_a_number_that_was_not_asked_for_is_a_dash(two_by_two: Tables, tmp_path: Path) -> None:
    results, summary = two_by_two
    results[["accuracy_low", "accuracy_high", "auroc", "selectivity", "p_value"]] = np.nan
    asked = "model dataset layers n_examples main_score peak_layer peak_accuracy".split()
    summary[[column for column in summary if column not in asked]] = np.nan
    words = Outline(write(tmp_path / "report.html", (results, summary))).words
    assert not re.search(r"\bnan\b", words, re.IGNORECASE)
    assert "–" in words


def test_the_untrained_network_of_numbers_is_in_the_summary(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results = results.assign(r2=results["accuracy"], accuracy=np.nan)
    summary = summary.assign(
        main_score="r2",
        peak_r2=0.6,
        bag_of_words_r2=0.1,
        random_weights_r2=0.123,
        random_weights_accuracy=np.nan,
    )
    table = page_tables.summary_table(curves_of(results, summary), held_out=False)
    assert {row[table.headers.index("random weights")] for row in table.rows} == {"0.12"}
    assert "R² there" in table.headers


def test_a_control_that_no_row_has_is_neither_a_column_nor_explained(
    html: str, two_by_two: Tables, tmp_path: Path
) -> None:
    results, summary = two_by_two
    bare = write(
        tmp_path / "bare.html",
        (
            results.assign(control_accuracy=np.nan, selectivity=np.nan, p_value=np.nan),
            summary.assign(random_weights_accuracy=np.nan, peak_p_value=np.nan),
        ),
    )
    assert "<dt>p</dt>" in html
    assert "<dt>p</dt>" not in bare
    for words in ("Random weights", "Random labels, selectivity", "random labels"):
        assert words in Outline(html).words
        assert words not in Outline(bare).words


def test_what_would_make_the_page_too_large_is_named(
    two_by_two: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "whole.html", two_by_two)
    sizes = [len(b64decode(str(i["src"]).split(",")[1])) for i in Outline(whole).all("img")]
    monkeypatch.setattr(page, "MOST_FIGURE_BYTES", sum(sizes[:2]))
    monkeypatch.setattr(page, "_MOST_FILE_BYTES", 5000)
    monkeypatch.setattr(page_tables, "_MOST_LAYER_ROWS", 70)
    html = write(tmp_path / "report.html", two_by_two)
    outline = Outline(html)
    assert len(outline.all("img")) == 2
    assert f"in the run’s folder figures: {', '.join(PICTURES[2:])}." in outline.words
    assert "in the run’s folder: results.csv." in outline.words
    assert list(json.loads(outline.scripts[0])["files"]) == ["summary.csv"]
    assert "2 more tables are too many for this page" in outline.words
    assert len(re.findall("<summary>[^<]*logistic probe</summary>", html)) == 2
    assert "more tables are too many" not in Outline(whole).words
    assert "Too large" not in Outline(whole).words


def test_the_page_of_a_network_names_its_layers_and_speaks_of_no_language_model(
    html: str, network_tables: Callable[..., Tables], tmp_path: Path
) -> None:
    results, summary = network_tables()
    of_network = write(tmp_path / "report.html", (results, summary))
    for layer, name in zip(results["layer"], results["layer_name"], strict=True):
        assert f'<th scope="row">{layer}</th><td>{name}</td>' in of_network
    words = Outline(of_network).words
    for curve in curves_of(results, summary):
        place = f"{curve.layer} ({results['layer_name'][curve.layer]}) of 9"
        line = evidence_of(curve).line
        assert f"at layer {place})" in line
        assert f"{curve.model} on {curve.dataset}: {line}" in words
        assert f"<td>{place}</td>" in of_network
    assert "A probe point of the network: 0 is its input" in words
    assert '<th scope="col">point</th>' not in html
    for of_language_models in ("embedding", "residual stream", "okens"):
        assert of_language_models in Outline(html).words
        assert of_language_models not in words


def test_names_of_layers_are_text(network_tables: Callable[..., Tables], tmp_path: Path) -> None:
    outline = Outline(write(tmp_path / "report.html", network_tables(["input", EVIL])))
    assert outline.all("script") == SCRIPTS
    assert EVIL in outline.words


def test_a_test_set_of_its_own_is_said(
    html: str, network_tables: Callable[..., Tables], tmp_path: Path
) -> None:
    held_out = write(tmp_path / "report.html", network_tables(), held_out=True)
    for page_of, said, unsaid in (
        (held_out, "a test set that neither they nor the network saw", "any example of its group"),
        (html, "any example of its group", "test set"),
    ):
        assert said in page_of
        assert unsaid not in page_of
    assert '<th scope="col">test examples</th>' in held_out
    assert '<th scope="col">examples</th>' in html


def test_the_description_length_is_a_column_where_it_was_asked_for(
    html: str, network_tables: Callable[..., Tables], tmp_path: Path
) -> None:
    results, summary = network_tables()
    asked = results.assign(code_length=6.125, compression=5.25)
    with_lengths = write(tmp_path / "report.html", (asked, summary))
    assert with_lengths.count("<td>6.12</td><td>5.25</td>") == len(results)
    for said in ("description length (kbit)", "Description length, compression"):
        assert said in with_lengths
        assert said not in html


def test_what_is_wrong_with_a_run_stands_at_the_top_as_text(
    html: str, two_by_two: Tables, tmp_path: Path
) -> None:
    notes = ("results.parquet: damaged", f"{EVIL}: missing")
    words = Outline(write(tmp_path / "report.html", two_by_two, notes=notes)).words
    places = [words.index(said) for said in (*notes, "Findings")]
    assert places == sorted(places)
    assert 'class="notes"' not in html


def picture(points: int = 2) -> Figure:
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot(np.random.default_rng(0).random(points))
    return figure


def test_findings_and_illustrations_come_first_and_as_text(
    two_by_two: Tables, tmp_path: Path
) -> None:
    html = write(
        tmp_path / "report.html",
        two_by_two,
        findings=["The network makes 0.7 % of errors.", f"{EVIL} & more"],
        illustrations={
            f"plane{number}": (picture(), f"Plane {number}. {EVIL}", f'"{EVIL}" {number}')
            for number in range(4)
        },
    )
    outline = Outline(html)
    assert outline.all("script") == SCRIPTS
    assert outline.words.count(EVIL) == 1 + 4
    in_order = [
        "smollm2-135m on capitals", "The network makes 0.7 % of errors.", f"{EVIL} & more",
        *(f"Plane {number}." for number in range(4)), "Accuracy of a probe on each layer.",
        "Where each concept can be read",
    ]  # fmt: skip
    places = [outline.words.index(said) for said in in_order]
    assert places == sorted(places)
    assert [image["alt"] for image in outline.all("img")][:4] == [
        f'"{EVIL}" {number}' for number in range(4)
    ]
    assert len(outline.all("img")) == 4 + len(PICTURES)


def test_illustrations_take_of_the_room_for_figures(
    two_by_two: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"field": (picture(3000), "A field.", "A field."), "plane": (picture(), "P.", "P.")}
    alone = Outline(write(tmp_path / "alone.html", two_by_two, illustrations=large))
    sizes = [len(b64decode(str(i["src"]).split(",")[1])) for i in alone.all("img")]
    monkeypatch.setattr(page, "MOST_FIGURE_BYTES", sum(sizes[:3]))
    full = Outline(write(tmp_path / "full.html", two_by_two, illustrations=large))
    assert len(full.all("img")) == 3
    monkeypatch.setattr(page, "MOST_FIGURE_BYTES", sizes[0] - 1)
    tight = Outline(write(tmp_path / "tight.html", two_by_two, illustrations=large))
    assert "A field." not in tight.words
    assert re.search(r"in the run’s folder figures: field\b", tight.words)


def test_a_script_cannot_end_its_own_element() -> None:
    closed = page._closed('"</SCRIPT>" + "<!-- x" + "a </p>"\r\n')
    assert closed == '"\\x3c/SCRIPT>" + "\\x3c!-- x" + "a </p>"\n'


def test_what_was_found_about_one_dataset_stands_together(
    two_by_two: Tables, tmp_path: Path
) -> None:
    summary = two_by_two[1]
    names = list(dict.fromkeys(summary["dataset"]))
    assert len(names) > 1
    written = write(tmp_path / "page.html", two_by_two)
    found = re.findall(r'data-curve="\d+"[^>]*><strong>[^:<]+ on (\w+)<', written)
    assert found == [name for name in names for _ in summary["model"].unique()]


def test_operating_points_say_their_guarantee_or_how_many_negatives_it_takes() -> None:
    def row(origin: str, units: int, at_1: float, at_01: float) -> list[str]:
        curve = curve_of(
            threshold_layer=12, threshold_negative_units=units, threshold_origin=origin,
            threshold_at_1_fpr=at_1, threshold_at_01_fpr=at_01,
            threshold_tpr_at_1_fpr=0.625 if origin == "set aside" else np.nan,
        )  # fmt: skip
        known = {"tpr_at_1_fpr": 0.8, "tpr_at_1_fpr_low": 0.7, "tpr_at_1_fpr_high": 0.9}
        rows = curve.rows.assign(**known, tpr_at_01_fpr=np.nan, tpr_at_01_fpr_low=np.nan)
        (row,) = page_tables.monitor_table([replace(curve, rows=rows), curve_of()]).rows
        return list(row)[2:]

    few = "too few negatives to tell: 320 units, 2,995 needed"
    tpr = "0.80 [0.70, 0.90]"
    guaranteed, nothing = "the rate, at 95 % confidence", "nothing (probe.calibrate would)"
    flags = "0.93 (flags 62 %)"
    assert row("set aside", 320, 0.93, np.nan) == [tpr, flags, "–", few, "12", guaranteed]
    assert row("out-of-fold", 320, 0.93, np.nan) == [tpr, "0.93", "–", few, "12", nothing]
    none = row("set aside", 40, np.nan, np.nan)
    assert none[1] == "too few negatives to tell: 40 units, 299 needed"
    assert none[-1] == "–"


def test_operating_points_are_on_the_page_of_two_classes_alone(
    html: str, two_by_two: Tables, tmp_path: Path
) -> None:
    results, summary = two_by_two
    words = "For a monitor"
    assert words not in Outline(html).words
    summary = summary.assign(threshold_negative_units=40, threshold_layer=2)
    shown = Outline(write(tmp_path / "b.html", (results, summary))).words
    assert words in shown
    assert "too few negatives to tell: 40 units, 299 needed" in shown
