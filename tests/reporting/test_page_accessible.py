"""The page can be used by keyboard, read by a screen reader, and seen on light and on dark."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened

Open = Callable[..., Opened]

FOCUSED = """() => {
    const here = document.activeElement, style = getComputedStyle(here);
    const box = here.getBoundingClientRect();
    return {
        what: here.id || here.getAttribute("role") || here.tagName,
        seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
        shown: box.width > 0 && box.height > 0,
    };
}"""
"""What has the focus, and whether one sees it."""

UNNAMED = """() => [...document.querySelectorAll(
    "button, select, input, summary, img, svg, [role=img], [role=region], [role=grid], table"
)].filter((one) => {
    if (one.closest("[hidden], [aria-hidden=true]")) return false;
    const by = one.getAttribute("aria-label") ?? one.getAttribute("alt")
        ?? (one.labels?.[0]?.textContent || one.caption?.textContent || one.textContent);
    return !by?.trim();
}).map((one) => one.outerHTML.slice(0, 120))"""
"""Controls and pictures that a screen reader has no name for."""

FAINT = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const light = (colour) => colour.slice(0, 3).map((part) => part / 255)
        .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => {
        const layers = [];
        for (let at = one; at; at = at.parentElement) {
            layers.push(rgb(getComputedStyle(at).backgroundColor));
        }
        return layers.reverse().reduce((below, [r, g, b, a]) =>
            [r, g, b].map((part, i) => a * part + (1 - a) * below[i]), [255, 255, 255]);
    };
    const found = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        const marks = "script, option, noscript, :disabled, [aria-hidden=true] i, .class i";
        if (!text || one.closest(marks) || !one.checkVisibility()) continue;
        const [a, b] = [rgb(getComputedStyle(one).color), behind(one)].map(light);
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.add(`${one.tagName}.${one.className} ${contrast}: ${text}`);
    }
    return [...found];
}"""
"""Texts with less than the contrast of WCAG 2.2, 1.4.3."""


@pytest.mark.parametrize("width", [1400, 400])
def test_tab_reaches_every_control_and_shows_where_it_is(
    opened: Open, trial_page: Path, width: int
) -> None:
    page = opened(trial_page, width)
    seen = []
    while not seen or seen[-1] != "BODY":
        page.page.keyboard.press("Tab")
        focused = page.page.evaluate(FOCUSED)
        seen.append(focused["what"])
        assert focused["what"] == "BODY" or (focused["seen"] and focused["shown"]), focused
        assert len(seen) < 200
    controls = "metric order gridcell dataset model play peak slider sort search next".split()
    assert [what for what in seen if what in controls] == controls
    assert seen.count("SUMMARY") == page.page.locator("summary").count()


def test_everything_can_be_done_with_keys(shown: Open, trial_page: Path) -> None:
    page = shown(trial_page)
    page.page.locator("#slider").press("Home")
    assert page.page.input_value("#slider") == "0"
    page.page.locator("#slider").press("ArrowRight")
    assert page.text("#slider-value").startswith("layer 1 ")
    assert page.page.get_attribute("#slider", "aria-valuetext") == page.text("#slider-value")
    page.page.locator("#peak").press("Enter")
    assert page.page.input_value("#slider") != "1"
    page.page.locator("button.plain[data-curve]").first.press("Enter")
    assert page.text("#layer-title").startswith("small, capitals")
    page.page.locator("#sort").focus()
    page.page.keyboard.press("ArrowDown")
    assert page.page.input_value("#sort") == "flips"
    page.page.locator("summary").first.press("Enter")
    assert page.page.locator("details").first.get_attribute("open") is not None


def test_controls_and_pictures_have_names(opened: Open, shown: Open, trial_page: Path) -> None:
    assert shown(trial_page).page.evaluate(UNNAMED) == []
    assert opened(trial_page, scripted=False).page.locator("img:not([alt])").count() == 0


def test_points_and_curves_say_what_they_show(shown: Open, trial_page: Path) -> None:
    page = shown(trial_page)
    page.choose("model", "0")
    page.slide(3)
    said = page.page.get_attribute("#cloud-0", "aria-label") or ""
    assert said.startswith("Examples of capitals at layer 3 of 6 of small as points")
    curves = page.page.get_attribute("#curve-chart", "aria-label") or ""
    assert "small, best 0.99 at layer" in curves
    assert "large, best 1.00 at layer" in curves


def test_headings_go_down_one_level_at_a_time(shown: Open, trial_page: Path) -> None:
    headings = shown(trial_page).page.locator(":is(h1, h2, h3, h4, h5, h6):visible")
    levels = headings.evaluate_all("(all) => all.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_names_of_elements_are_unique_and_what_refers_to_one_finds_it(
    shown: Open, trial_page: Path
) -> None:
    page = shown(trial_page).page
    names = page.locator("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(names) == len(set(names))
    referred = page.locator("[for]").evaluate_all(
        "(all) => all.map((one) => one.getAttribute('for'))"
    )
    assert set(referred) <= set(names)


def test_heatmap_is_a_grid_of_rows_with_one_stop(shown: Open, trial_page: Path) -> None:
    snapshot = shown(trial_page).page.locator("#heatmap").aria_snapshot()
    for line in (
        'grid "small"',
        'rowheader "capitals"',
        'columnheader "best (layer)"',
        "row",
        'gridcell "small, capitals, layer 0 of 6: accuracy',
    ):
        assert line in snapshot
    assert snapshot.count("[selected]") == 1


def test_text_stands_out_from_what_is_behind_it(opened: Open, trial_page: Path) -> None:
    page = opened(trial_page).page
    page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    schemes: tuple[Any, ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(FAINT) == []
