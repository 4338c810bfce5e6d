"""Pictures of a trace show its scores, its words as text, and say what they leave out."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from rich.cells import cell_len
from rich.console import Console

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.trace.figure import trace_figure
from llmprobe.reporting.trace.files import write_trace
from llmprobe.reporting.trace.page import trace_page
from llmprobe.reporting.trace.terminal import trace_lines
from llmprobe.reporting.trace.view import PALE, SHADES, TraceView, colours, visible
from llmprobe.results.trace import Trace, read_traces

NASTY = [
    "<script>alert(1)</script>", " </td>", "$x$", " 日本語", "\n", "\u202eabc", "\x1b[31m", "_a",
    " &amp;", "🦙" * 30, "\ufffd", '"', "x" * 10_000,
]  # fmt: skip


def a_trace(tokens: list[str] | int = 6, layers: int = 5, **changes: object) -> Trace:
    words = [f" w{i}" for i in range(tokens)] if isinstance(tokens, int) else tokens
    facts = {
        "text": "".join(words), "tokens": words, "layers": list(range(layers)),
        "scores": np.random.default_rng(0).random((layers, len(words))), "model": "tiny",
        "dataset": "toy", "best_layer": 3, "label": "1", "position": "last", "probe": "0",
    }  # fmt: skip
    return Trace(**{**facts, **changes})


def terminal(trace: Trace, width: int = 100, most_layers: int = 99, **options: object) -> list[str]:
    return [line.plain for line in trace_lines(trace, width, most_layers, "x.html", **options)]


class Page(HTMLParser):
    """What a browser would see: elements, the rows of the table, all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1] and self.lasttag in ("td", "th", "bdi"):
            self.rows[-1][-1] += data.strip()


def test_the_terminal_has_a_row_for_each_layer_and_the_last_is_on_top() -> None:
    trace = a_trace()
    lines = terminal(trace)
    top = lines.index("layer   ·w0  ·w1  ·w2  ·w3  ·w4  ·w5")
    for line, layer in zip(lines[top + 1 :], reversed(trace.layers), strict=False):
        head, *cells = line.split()
        assert head == (f"{layer}*" if layer == 3 else str(layer))
        assert cells == [f"{score:.2f}" for score in trace.scores[layer]]
    assert TraceView(trace).caution in lines
    assert not any(line.startswith("Left out") for line in lines)


@pytest.mark.parametrize("width", [20, 60, 100])
def test_tokens_that_do_not_fit_go_on_below_and_what_is_left_out_is_said(width: int) -> None:
    trace = a_trace(200, layers=40, best_layer=17)
    lines = terminal(trace, width, most_layers=8)
    heads = [line.split()[1:] for line in lines if line.startswith("layer ")]
    shown = [token for head in heads for token in head]
    assert len(heads) == 3
    assert shown == [f"·w{i}" for i in range(200 - len(shown), 200)]
    assert max(map(len, lines[2:-4])) <= width
    assert lines[-1] == (
        f"Left out here: the first {200 - len(shown)} tokens and 32 of 40 layers; x.html has them."
    )


@pytest.mark.parametrize("best", [0, 1, 17, 38, 39])
@pytest.mark.parametrize("most", [3, 6, 39])
def test_of_many_layers_the_first_the_last_and_the_best_are_shown(best: int, most: int) -> None:
    trace = a_trace(layers=40, best_layer=best)
    shown = TraceView(trace, most_layers=most)
    assert len(shown.layers) == most
    assert shown.layers == sorted(set(shown.layers))
    assert {0, 39, best} <= set(shown.layers)
    assert [row.layer for row in shown.rows] == shown.layers[::-1]
    for row in shown.rows:
        assert [cell.number for cell in row.cells] == [f"{x:.2f}" for x in trace.scores[row.layer]]


def test_a_terminal_shows_colours_and_a_file_none() -> None:
    trace = a_trace()
    for terminal_there, colour in ((True, "truecolor"), (False, "auto")):
        console = Console(
            file=io.StringIO(), force_terminal=terminal_there, color_system=colour, width=100
        )
        for line in trace_lines(trace, 100, 99, "x.html"):
            console.print(line, soft_wrap=True)
        assert ("\x1b[" in console.file.getvalue()) == terminal_there
    line = next(line for line in trace_lines(trace, 100, 99, "x") if line.plain.startswith("    4"))
    spans = {line.plain[span.start : span.end].strip(): str(span.style) for span in line.spans}
    for token, score in enumerate(trace.scores[4]):
        ink, ground = colours(round(score * (SHADES - 1)), pale=token < 5)
        assert spans[f"{score:.2f}"] == f"{ink} on {ground}"


@pytest.mark.parametrize("unicode", [True, False])
def test_any_text_is_shown_as_text_in_the_terminal(unicode: bool) -> None:
    trace = a_trace(NASTY, model="[bold]m[/bold]", dataset="\x1b]0;title\x07")
    lines = terminal(trace, unicode=unicode)
    assert max(map(cell_len, lines)) <= 100
    assert all(line.isprintable() for line in lines)
    assert unicode or all(line.isascii() for line in lines)
    assert lines[0].startswith("[bold]m[/bold] on ?]0;title?: ")


def test_colours_run_from_0_over_even_odds_to_1() -> None:
    trace = a_trace(3, 1, scores=np.array([[0.0, 0.5, 1.0]]), best_layer=0)
    (row,) = TraceView(trace).rows
    inks, grounds = zip(*(colours(cell.shade) for cell in row.cells), strict=True)
    for ground, end in zip(grounds, (0.0, 0.5, 1.0), strict=True):
        assert to_rgb(ground) == pytest.approx(CHANCE_MAP(end)[:3], abs=0.003)
    assert inks == ("#ffffff", "#000000", "#ffffff")


def test_numbers_have_colours_of_their_own_range_whatever_a_first_token_says() -> None:
    scores = np.linspace(10, 20, 20).reshape(4, 5)
    scores[:, 0], scores[2, 3] = -1e6, 3e4
    trace = a_trace(5, 4, scores=scores, label=None)
    low, high = TraceView(trace).score_range
    usual = scores[(scores > 0) & (scores < 100)]
    assert (low, high) == (usual.min(), pytest.approx(usual.max(), abs=15))
    levels = TraceView(trace).levels
    np.testing.assert_array_equal(levels[:, 0], 0.5)
    assert levels.max() == 1
    np.testing.assert_array_equal(TraceView(trace, 2, 3).levels, levels[[0, 2, 3], -2:])
    assert TraceView(replace(trace, position="first")).score_range[0] < low
    flat = TraceView(a_trace(3, 4, scores=np.full((4, 3), 7.0), label=None)).levels
    assert np.isfinite(flat).all()


def test_the_figure_shows_every_score_over_its_token_and_layer() -> None:
    trace = a_trace(60, layers=5)
    *panels, bar = trace_figure(trace).axes
    images = [ax.images[0] for ax in panels]
    drawn = np.hstack([image.get_array() for image in images])
    np.testing.assert_allclose(drawn, TraceView(trace).levels)
    assert images[0].origin == "lower"
    assert images[0].get_extent() == [-0.5, 23.5, -0.5, 4.5]
    labels = [text.get_text() for ax in panels for text in ax.get_xticklabels()]
    assert labels == [f"·w{i}" for i in range(60)]
    for ax in panels:
        (frame,) = ax.patches
        assert (frame.get_y(), frame.get_height()) == (2.5, 1)
        assert "best: 3" in [text.get_text() for text in ax.texts]
    assert bar.get_xlabel() == "probability of '1'"
    assert bar.get_xlim() == (0, 1)


def test_the_figure_of_a_long_text_shows_its_end_and_says_so() -> None:
    figure = trace_figure(a_trace(400))
    labels = [text.get_text() for ax in figure.axes[:-1] for text in ax.get_xticklabels()]
    assert labels == [f"·w{i}" for i in range(256, 400)]
    said = " ".join(figure.get_supxlabel().split())
    assert said == (
        f"{TraceView(a_trace()).caution} "
        "Left out here: the first 256 tokens; the .json file has them."
    )


@pytest.mark.parametrize("label", ["1", None, "$\\frac{<script>"])
def test_files_are_written_for_any_text_and_the_trace_is_read_again(
    label: str | None, tmp_path: Path
) -> None:
    trace = a_trace(NASTY, label=label)
    page, numbers, png, svg = write_trace(trace, tmp_path / "traces")
    assert {path.stem for path in (page, numbers, png, svg)} == {trace.file_name}
    assert matplotlib.image.imread(png).shape[0] > 200
    assert "<script>alert" not in svg.read_text()
    (again,) = read_traces(tmp_path / "traces")
    assert again.tokens == NASTY
    np.testing.assert_array_equal(again.scores, trace.scores.round(4))


def test_the_page_has_every_score_in_a_table() -> None:
    trace = a_trace()
    head, *rows = Page(trace_page(trace)).rows
    assert head == ["layer", *(f"·w{i}" for i in range(6))]
    for row, layer in zip(rows, reversed(trace.layers), strict=True):
        assert row[0] == (f"best: {layer}" if layer == 3 else str(layer))
        assert row[1:] == [f"{score:.2f}" for score in trace.scores[layer]]


@pytest.mark.parametrize(
    ("position", "read", "dark"),
    [("last", (), [5]), ("last", (4,), [4]), ("span:city", (), []), ("span:city", (1, 2), [1, 2])],
)
def test_a_trace_is_pale_where_the_probe_was_not_fitted(
    position: str, read: tuple[int, ...], dark: list[int]
) -> None:
    trace = a_trace(position=position, read=read)
    expected = [token in dark for token in range(6)]
    cells = re.findall(r'<td class="s\d+( pale)?">', trace_page(trace))
    assert [not pale for pale in cells] == expected * 5
    panel, _ = trace_figure(trace).axes
    assert (np.asarray(panel.images[0].get_alpha()) == np.where(expected, 1, PALE)).all()
    caution = TraceView(trace).caution
    assert caution.endswith("; elsewhere (pale) it is not tested.")
    assert ("in bold" in caution) == bool(dark)


def test_pale_is_nearer_to_white() -> None:
    for shade in (0, 10, 40):
        full, pale = (to_rgb(colours(shade, pale)[1]) for pale in (False, True))
        assert 1 - np.asarray(pale) == pytest.approx(PALE * (1 - np.asarray(full)), abs=0.005)


def test_any_text_is_shown_as_text_on_the_page_and_nothing_runs_or_loads() -> None:
    made = trace_page(a_trace(NASTY, model="<b>m", dataset="</title><img src=x>", label="<i>"))
    page = Page(made)
    assert not {"script", "img", "b", "link", "iframe"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert page.text.count("&amp;") == 2  # in the text, and as a token
    assert "default-src 'none'" in made
    assert len(made) < 50_000  # of a token with 10,000 characters, both ends
    assert "\x1b" not in made


def test_the_page_of_a_long_text_shows_its_end_and_says_so() -> None:
    page = Page(trace_page(a_trace(1500, layers=4)))
    assert len(page.rows[0]) == 1001
    assert page.rows[0][-1] == "·w1499"
    assert "Left out here: the first 500 tokens; the .json file has them." in page.text


def test_scores_are_called_after_the_class_as_it_is_written() -> None:
    assert TraceView(a_trace(label="True")).meaning == "probability of 'True'"
    assert TraceView(a_trace(label=None)).meaning == "predicted number"


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" Peru", "·Peru"), ("a b", "a b"), ("\n\t", "↵⇥"), ("  ", "··"), ("x ", "x·"), ("", "")],
)
def test_spaces_of_a_token_can_be_seen(token: str, shown: str) -> None:
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("position", "said"),
    [("last", "at the last token"), ("first", "at the first token"),
     ("mean", "at the mean of all tokens"), ("span:city", "at the end of 'city'"),
     ("first:city", "at the first token of 'city'"), ("token:-2", "at token:-2;")],
)  # fmt: skip
def test_it_is_said_where_the_probe_is_at_home(position: str, said: str) -> None:
    assert said in TraceView(a_trace(position=position)).caution


@pytest.mark.parametrize(
    ("score", "shown"),
    [(1950.4, "1950"), (-8e5, "-800000"), (-2e6, "-2e+06"), (12.345, "12.3"), (0.01234, "0.0123")],
)
def test_predicted_numbers_are_written_with_the_digits_that_matter(
    score: float, shown: str
) -> None:
    assert TraceView(a_trace(label=None)).number(score) == shown


def test_a_view_has_the_last_tokens_and_some_layers_and_says_what_it_lacks() -> None:
    trace = a_trace(tokens=60, layers=120, best_layer=77)
    view = TraceView(trace, most_tokens=40, most_layers=50)
    assert view.tokens == [f"·w{i}" for i in range(20, 60)]
    (best,) = (row for row in view.rows if row.best)
    assert best.layer == 77
    assert [cell.number for cell in best.cells] == [f"{x:.2f}" for x in trace.scores[77, -40:]]
    assert view.left_out("x.json") == (
        "Left out here: the first 20 tokens and 70 of 120 layers; x.json has them."
    )
    assert TraceView(trace, 60, 120).left_out("x.json") == ""
