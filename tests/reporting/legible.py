"""Whether what a figure says can be read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def draw(figure: Figure) -> None:
    """Lay the figure out, so that extents are known."""
    FigureCanvasAgg(figure).draw()


def numbers_at(axes: Iterable[Axes]) -> list[Text]:
    """What stands at the ticks of axes, as far as it is shown."""
    found = []
    for ax in axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            found += [
                tick.label1
                for tick in axis.get_major_ticks()
                if tick.label1.get_visible() and min(low, high) <= tick.get_loc() <= max(low, high)
            ]
    return found


def assert_apart(figure: Figure, texts: Iterable[Text]) -> None:
    """No two of the texts overlap, and none leaves the figure, once it is drawn."""
    draw(figure)
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > 1
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def assert_slanted_apart(figure: Figure, texts: Iterable[Text]) -> None:
    """No two lines of text that are turned alike are closer than they are high."""
    draw(figure)
    shown = list(texts)
    assert len(shown) > 1
    angle = np.radians(shown[0].get_rotation())
    assert {text.get_rotation() for text in shown} == {shown[0].get_rotation()}
    places = np.array([text.get_transform().transform(text.get_position()) for text in shown])
    across = np.sort(places @ [np.sin(angle), -np.cos(angle)])
    height = shown[0].get_fontsize() * figure.dpi / 72
    assert np.diff(across).min() > height
