"""A trace in the terminal: a cell for each token and layer, in colour if there are colours."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

from llmprobe.ground.text import elide
from llmprobe.reporting.trace.view import TraceView, colours
from llmprobe.results.trace import Trace

_WIDEST_TOKEN = 10
_MOST_BLOCKS = 3
"""The most blocks of tokens, one below the other."""


def trace_lines(
    trace: Trace, width: int, most_layers: int, file: str, unicode: bool = True
) -> Iterator[Text]:
    """Yield the lines of a heatmap: the last layer on top, the best marked, scores in the cells.

    Tokens that do not fit side by side continue below; the last line says what had no room.

    Parameters
    ----------
    width
        The most columns of a line.
    most_layers
        The most rows of a block.
    file
        Where the whole trace is.
    unicode
        Whether the output can show more than ASCII.
    """
    ellipsis = "…" if unicode else "..."

    def fitted(text: str, columns: int = width) -> str:
        return _fitted(text if unicode else _ascii(text), columns, ellipsis)

    view = TraceView(trace, most_layers=most_layers)
    tokens = [fitted(token, _WIDEST_TOKEN) for token in view.tokens]
    narrowest = max(len(cell.number) for row in view.rows for cell in row.cells)
    widths = [max(narrowest, cell_len(token)) for token in tokens]
    heads = [f"{row.layer}{'*' if row.best else ' '}" for row in view.rows]
    margin = max(len("layer "), *map(len, heads))
    blocks = _blocks(widths, width - margin)[-_MOST_BLOCKS:]
    model, dataset = (elide(name, 40, ellipsis) for name in (trace.model, trace.subject))
    yield Text(fitted(f"{model} on {dataset}: {view.meaning}"), "bold")
    yield Text(fitted(trace.text))
    for block in blocks:
        yield Text()
        names = Text("layer ".rjust(margin))
        for i in block:
            names.append(" " * (1 + widths[i] - cell_len(tokens[i])))
            names.append(tokens[i], "bold" if view.read[i] else "")
        yield names
        for head, row in zip(heads, view.rows, strict=True):
            line = Text(head.rjust(margin), "bold" if row.best else "")
            for i in block:
                ink, ground = colours(row.cells[i].shade, pale=not view.read[i])
                line.append(f" {row.cells[i].number:>{widths[i]}}", f"{ink} on {ground}")
            yield line
    yield Text()
    yield Text("* the best layer, by examples that the probe was not fitted on")
    yield Text(view.caution if unicode else _ascii(view.caution))
    file = file if unicode else _ascii(file)
    if missing := view.left_out(file, tokens=blocks[-1].stop - blocks[0].start):
        yield Text(missing)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _fitted(text: str, width: int, ellipsis: str) -> str:
    """Return the text in at most ``width`` columns; a character can take two."""
    most = width
    while cell_len(shown := elide(text, most, ellipsis)) > width:
        most -= 1
    return shown


def _blocks(widths: list[int], room: int) -> list[range]:
    """Return the tokens of each block, which fit side by side with a column before each."""
    starts, used = [0], 0
    for i, width in enumerate(widths):
        if used + width + 1 > room and i > starts[-1]:
            starts.append(i)
            used = 0
        used += width + 1
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(widths)], strict=True)]
