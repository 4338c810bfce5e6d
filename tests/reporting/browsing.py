"""A page in a real browser, and what a test may ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

DRAWN = """() => document.documentElement.classList.contains("scripted")
    && document.getElementById("curve-chart").view
    && [...document.querySelectorAll(".cloud > div")].every((holder) => holder.view)"""
"""Whether the script has drawn all that it draws at first."""
RESET = """() => {
    for (const one of document.querySelectorAll("#example-rows [aria-pressed=true]")) one.click();
    for (const select of document.querySelectorAll("select")) {
        select.selectedIndex = 0;
        select.dispatchEvent(new Event("change"));
    }
    const search = document.getElementById("search");
    search.value = "";
    search.dispatchEvent(new Event("input"));
    document.getElementById("peak").click();
    document.activeElement.blur();
    scrollTo(0, 0);
}"""
OWN = ("file:", "data:", "blob:")


@dataclass
class Opened:
    """A page, and what it complained about or asked the network for."""

    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self._dialog(dialog))
        self.context.on("request", lambda request: self.requests.append(request.url))

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def goto(self, path: Path, scripted: bool = True) -> None:
        self.page.goto(path.resolve().as_uri())
        if scripted:
            self.page.wait_for_function(DRAWN)

    @classmethod
    def open(
        cls, browser: Browser, path: Path, width: int, *, scripted: bool = True, **options: Any
    ) -> Opened:
        """Open a page in a window of its own, which by default asks for less motion."""
        options = {"reduced_motion": "reduce", "java_script_enabled": scripted} | options
        options = {"viewport": {"width": width, "height": 900}} | options
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        made = cls(context, context.new_page())
        made.goto(path, scripted)
        return made

    def reset(self) -> None:
        """Put the controls back to how they are when the page opens, with the first dataset."""
        self.page.emulate_media(media="screen", color_scheme="light", reduced_motion="reduce")
        self.page.evaluate(RESET)

    def assert_quiet(self) -> None:
        """Whether the page complained about nothing and asked nobody for anything, until now."""
        complaints, self.complaints[:] = self.complaints[:], []
        assert complaints == []
        assert self.left_the_page() == []

    def left_the_page(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(OWN)]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def slide(self, place: int) -> None:
        """Put the slider on a place, as a drag does."""
        self.page.locator("#slider").evaluate(
            "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input')) }",
            place,
        )

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def points(self, model: int) -> list[dict[str, Any]]:
        """Of a cloud, as Vega has them now."""
        found: list[dict[str, Any]] = self.page.evaluate(
            "(model) => document.getElementById(`cloud-${model}`).view.data('points')"
            ".map(({ i, x, y, label }) => ({ i, x, y, label }))",
            model,
        )
        return found

    def hover(self, model: int) -> int:
        """Put the mouse on the point of a cloud that is farthest up. -> its place"""
        self.page.locator(f"#cloud-{model} canvas").scroll_into_view_if_needed()
        at = self.page.evaluate(
            """(model) => {
                const { view } = document.getElementById(`cloud-${model}`);
                const point = view.data("points").reduce((a, b) => (b.y > a.y ? b : a));
                const box = view.container().querySelector("canvas").getBoundingClientRect();
                const [left, top] = view.origin(), { left: padding } = view.padding();
                return {
                    i: point.i,
                    x: box.x + padding + left + view.scale("x")(point.x),
                    y: box.y + padding + top + view.scale("y")(point.y),
                };
            }""",
            model,
        )
        self.page.mouse.move(at["x"], at["y"])
        self.page.wait_for_selector("#tip", state="visible")
        return int(at["i"])

    def cell(self, model: int, dataset: int, layer: int) -> str:
        """Selector of a cell of the heatmap, with datasets in their own order."""
        return (
            f"#heatmap .scroll:nth-child({model + 1}) tbody tr:nth-child({dataset + 1}) "
            f"td:nth-child({layer + 2})"
        )

    def listed(self) -> list[int]:
        """Numbers of the examples in the table, from the top."""
        return [int(name) for name in self.texts("#example-rows tbody th")]

    def choose(self, control: str, value: str) -> None:
        self.page.select_option(f"#{control}", value)

    def table(self, selector: str) -> dict[str, str]:
        """First and second cell of each row."""
        rows: Sequence[Sequence[str]] = self.page.locator(f"{selector} tr").evaluate_all(
            "(rows) => rows.map((row) => [...row.children].map((cell) => cell.innerText))"
        )
        return {row[0]: row[1] for row in rows}
