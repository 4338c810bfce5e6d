"""A trace in the terminal: a cell for each token and layer, in colour where there is colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from llmprobe.ground.text import elide
from llmprobe.reporting.trace.shading import (
    caution,
    colours,
    last_tokens,
    left_out,
    levels,
    meaning,
    number,
    some_layers,
    visible,
)
from llmprobe.results.trace import Trace

_WIDEST_TOKEN = 10
_MOST_BLOCKS = 3
"""Of tokens, one below the other."""


def trace_lines(
    trace: Trace, width: int, most_layers: int, file: str, unicode: bool = True
) -> Iterator[Text]:
    """The lines of a heatmap: the last layer on top, the best one marked, its scores in the cells.

    Tokens that do not fit beside each other go on below; what there is no room for is said.

    Parameters
    ----------
    width
        Most columns of a line.
    most_layers
        Most rows of a block.
    file
        Where the whole trace is.
    unicode
        Whether the output can show more than ASCII.
    """
    ellipsis = "…" if unicode else "..."

    def plain(text: str) -> str:
        return text if unicode else text.encode("ascii", "replace").decode()

    shown = some_layers(trace, most_layers)
    tokens = [_fitted(plain(visible(token)), _WIDEST_TOKEN, ellipsis) for token in shown.tokens]
    numbers = [[number(score, trace) for score in row] for row in shown.scores]
    narrowest = max(len(cell) for row in numbers for cell in row)
    widths = [max(narrowest, cell_len(token)) for token in tokens]
    heads = [f"{layer}{'*' if layer == trace.best_layer else ' '}" for layer in shown.layers]
    margin = max(len("layer "), *map(len, heads))
    blocks = _blocks(widths, width - margin)[-_MOST_BLOCKS:]
    _, lost = last_tokens(shown, blocks[-1].stop - blocks[0].start)
    model, dataset = (elide(name, 40, ellipsis) for name in (trace.model, trace.dataset))
    title = f"{model} on {dataset}: {meaning(trace)}"
    yield Text(_fitted(plain(title), width, ellipsis), "bold")
    yield Text(_fitted(plain(trace.text), width, ellipsis))
    shades = levels(shown)
    for block in blocks:
        yield Text()
        yield Text("layer ".rjust(margin)).append(
            "".join(f" {' ' * (widths[i] - cell_len(tokens[i]))}{tokens[i]}" for i in block)
        )
        for row in reversed(range(len(heads))):
            line = Text(heads[row].rjust(margin), "bold" if "*" in heads[row] else "")
            for i in block:
                ink, paper = colours(shades[row, i])
                line.append(f" {numbers[row][i]:>{widths[i]}}", f"{ink} on {paper}")
            yield line
    yield Text()
    yield Text("* the best layer, by examples that the probe was not fitted on")
    yield Text(plain(caution(trace)))
    if missing := left_out(lost, shown.layers, trace.layers, plain(file)):
        yield Text(missing)


def _fitted(text: str, width: int, ellipsis: str) -> str:
    """The text in at most ``width`` columns; a character can take two."""
    most = width
    while cell_len(shown := elide(text, most, ellipsis)) > width:
        most -= 1
    return shown


def _blocks(widths: list[int], room: int) -> list[range]:
    """The tokens that stand beside each other, each with a column before it."""
    starts, used = [0], 0
    for i, width in enumerate(np.array(widths) + 1):
        if used + width > room and i > starts[-1]:
            starts.append(i)
            used = 0
        used += width
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(widths)], strict=True)]
