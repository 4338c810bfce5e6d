"""Texts and names come from anywhere: in a browser they are text, and nothing of them runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import Opened
from synthetic_runs import capitals, probed_run, write_page

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.results.results import Results

Open = Callable[..., Opened]
PWN = "<script>window.pwned=1</script>"
IMAGE = "<img src=x onerror=window.pwned=1>"
TEXTS = [
    PWN,
    f"</script>{PWN}",
    f"<!--<script>{PWN}",
    f"]]>{IMAGE}",
    "<svg onload=window.pwned=1>",
    "\"'><b onmouseover=window.pwned=1>bold</b>",
    "{{7*7}} {% raw %} ${7*7} #{7*7}",
    "javascript:window.pwned=1",
    "\u202ereversed\u202c and \u200fmarked\u200e, \u2066isolated\u2069",
    "👩‍👩‍👧‍👦 🇵🇪 é ﷽",
    "line\u2028separator\u2029and\x85more\r\nlines",
    "nul\x00 bell\x07 escape\x1b[31m delete\x7f",
    "half \ud83d of a pair",
    "x" * 10_000,
    "word " * 2_000,
    "&lt;b&gt; &amp;amp; \\u003cb\\u003e",
    "__proto__",
    "constructor",
]
LABELS = {"0": "<i>no</i>", "1": "__proto__"}
MODELS = {"small": IMAGE, "large": "__proto__"}
DATASETS = {"capitals": f"</script>{PWN}", "coin_flip": "constructor"}


def evil(trial: Results, labels: dict[str, str] = LABELS) -> Results:
    """A run whose every text and name is somebody's attempt."""

    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        names = {"model": MODELS, "dataset": DATASETS, "label": labels, "predicted": labels}
        known = {column: names[column] for column in names if column in table}
        return table.replace(known)

    n = len(trial.examples)
    fields = dict.fromkeys(("__proto__", "constructor", IMAGE, "half \ud83d of a pair"), PWN)
    examples = renamed(trial.examples).assign(
        text=pd.Series([TEXTS[i % len(TEXTS)] for i in range(n)], dtype=object),
        group=pd.Series([f"{TEXTS[i // 2 % len(TEXTS)]} {i // 2}" for i in range(n)], dtype=object),
        fields=json.dumps(fields),
    )
    environment = {
        "models": [{"name": name, "source": PWN} for name in MODELS.values()],
        "datasets": [
            {
                "name": name,
                "findings": [{"level": "warning", "check": IMAGE, "message": IMAGE * 20}],
            }
            for name in DATASETS.values()
        ],
        PWN: {IMAGE: PWN},
    }
    return replace(
        trial,
        table=renamed(trial.table),
        summary=renamed(trial.summary).assign(classes=json.dumps([*labels.values()])),
        predictions=renamed(trial.predictions),
        examples=examples,
        environment=environment,
        config=f"# </code></pre>{PWN}\n{IMAGE}: \x00",
        notes=(PWN, IMAGE, "x" * 500),
    )


@pytest.fixture(scope="module")
def evil_page(trial: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("evil") / "report.html", evil(trial))


def assert_nothing_ran(page: Opened) -> None:
    assert page.page.evaluate("window.pwned") is None
    assert page.page.evaluate("({}).pwned") is None
    assert (
        page.page.locator(
            "main script, main img, main svg:not([role]), main b[onmouseover]"
        ).count()
        == 0
    )


@pytest.mark.parametrize("width", [1400, 400])
def test_names_and_texts_of_any_kind_show_as_text(shown: Open, evil_page: Path, width: int) -> None:
    page = shown(evil_page, width)
    assert_nothing_ran(page)
    assert page.overflow() == 0
    for shown in (PWN, IMAGE, DATASETS["capitals"]):
        assert shown in page.text("main")
    assert page.page.locator("#dataset option").all_text_contents() == list(DATASETS.values())
    page.choose("dataset", "0")
    page.choose("sort", "number")
    bodies = page.page.locator("#example-rows td.text > bdi").all_text_contents()
    for text, shown in zip(TEXTS, bodies, strict=False):
        if len(text) < 400:
            wanted = text.encode("utf-8", "replace").decode()
            assert shown.replace("\r\n", "\n") == wanted.replace("\r\n", "\n")
        else:
            assert "more characters" in shown
            assert len(shown) < 500


def test_controls_work_on_names_of_any_kind(shown: Open, evil_page: Path) -> None:
    page = shown(evil_page)
    page.page.locator("button.plain[data-curve]").nth(1).click()
    title = page.text("#layer-title")
    page.page.click(page.cell(0, 0, 2))
    assert page.text("#layer-title") == f"{MODELS['small']}, {DATASETS['capitals']}: layer 2 of 6"
    assert page.text("#layer-title") != title
    page.slide(5)
    assert {point["label"] for point in page.points(0)} == set(LABELS.values())
    assert page.text("#confusion thead").split("\n")[0] != ""
    with_braces = sum(TEXTS[6] in (TEXTS[i % 18], TEXTS[i // 2 % 18]) for i in range(120))
    for query, found in (("{{7*7}}", with_braces), ("</SCRIPT>", 120), ("window.pwned", 120)):
        page.page.fill("#search", query)
        assert page.text("#example-count").startswith(f"{found} examples")
    for row in page.page.locator("#example-rows button").all()[:5]:
        row.click()
    page.choose("metric", "auroc")
    page.choose("dataset", "1")
    assert page.text("#curve-title") == "constructor"
    assert_nothing_ran(page)


def test_tooltips_show_names_and_texts_as_text(shown: Open, evil_page: Path) -> None:
    page = shown(evil_page)
    page.choose("dataset", "0")
    number = page.hover(0)
    tip = page.page.locator("#tip")
    assert f"label: {LABELS[str((number + 1) % 2)]}" in tip.inner_text()
    assert {
        name.lower()
        for name in tip.locator("*").evaluate_all("(all) => all.map((one) => one.tagName)")
    } == {"div", "bdi"}
    assert_nothing_ran(page)


def test_curves_are_drawn_for_every_model_whatever_its_name(shown: Open, evil_page: Path) -> None:
    page = shown(evil_page)
    page.choose("dataset", "0")
    lines = page.page.evaluate(
        """() => {
            const found = [];
            const walk = (item) => {
                if (item.marktype === "line") found.push(item.items.length);
                for (const child of item.items ?? []) walk(child);
            };
            walk(document.getElementById("curve-chart").view.scenegraph().root);
            return found;
        }"""
    )
    assert {7, 13} <= set(lines)


def test_scripts_that_are_put_into_the_page_do_not_run(opened: Open, evil_page: Path) -> None:
    page = opened(evil_page)
    page.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.pwned = 1";
            document.body.append(script);
            const holder = document.createElement("div");
            holder.innerHTML = "<img src=x onerror='window.pwned = 1'>"
                + "<a href='javascript:window.pwned=1'>a</a>";
            document.body.append(holder);
            holder.querySelector("a").click();
        }"""
    )
    page.page.wait_for_timeout(200)
    assert page.page.evaluate("window.pwned") is None
    assert len(page.complaints) >= 3
    assert all("Content Security Policy" in line for line in page.complaints)
    page.complaints.clear()


def test_layers_may_have_names_of_any_kind(opened: Open, tmp_path: Path) -> None:
    run = probed_run(tmp_path, {"net": 5}, [capitals("digits", 60)])
    names = [PWN, "__proto__", 'quote"\\', "\u2028", "'", "</script>"]
    run = replace(run, table=run.table.assign(layer_name=names))
    page = opened(write_page(tmp_path / "report.html", run))
    assert_nothing_ran(page)
    page.slide(1)
    assert page.text("#layer-title") == "net, digits: layer 1 (__proto__) of 5"
    assert page.page.locator("#heatmap thead th span").all_text_contents()[1] == "__proto__"


def test_texts_of_any_kind_pass_through_a_run_folder(opened: Open, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if "\ud83d" not in text] * 4
    dataset = ConceptDataset(
        "evil",
        texts,
        np.array([LABELS[str(i % 2)] for i in range(len(texts))]),
        fields=pd.DataFrame({"__proto__": texts, IMAGE: texts}),
    )
    run = probed_run(tmp_path, {"net": 3}, [dataset], permutations=0)
    page = opened(write_page(tmp_path / "report.html", run))
    assert_nothing_ran(page)
    page.choose("sort", "number")
    shown = page.page.locator("#example-rows td.text > bdi").first.text_content()
    assert shown == PWN
