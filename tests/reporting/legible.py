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


def assert_legible(figure: Figure) -> None:
    """No text of a figure leaves it, and no two overlap, however they are turned."""
    draw(figure)
    beyond = {
        text
        for ax in figure.axes
        for axis, ends in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim()))
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(ends) - 1e-9 <= tick.get_loc() <= max(ends) + 1e-9
        for text in (tick.label1, tick.label2)
    }
    texts = [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in beyond
    ]
    for text in texts:
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= -1, f"{text.get_text()!r} is clipped"
        assert box.x1 <= figure.bbox.x1 + 1, f"{text.get_text()!r} is clipped"
        assert box.y1 <= figure.bbox.y1 + 1, f"{text.get_text()!r} is clipped"
    corners = np.array([_corners(text) for text in texts])
    low, high = corners.min(axis=1), corners.max(axis=1)
    near = (low[:, None] < high[None]).all(axis=2) & (low[None] < high[:, None]).all(axis=2)
    for one, other in zip(*np.nonzero(np.triu(near, 1)), strict=True):
        names = f"{texts[one].get_text()!r} and {texts[other].get_text()!r} overlap"
        assert _apart(corners[one], corners[other]), names


def _corners(text: Text) -> np.ndarray:
    """The corners of a text's own rectangle, which may be turned. [4, 2]"""
    box, angle = text.get_window_extent(), np.radians(text.get_rotation())
    along, across = np.array([np.cos(angle), np.sin(angle)]), [-np.sin(angle), np.cos(angle)]
    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    if abs(cos - sin) > 1e-6:
        width, height = np.linalg.solve([[cos, sin], [sin, cos]], [box.width, box.height])
    else:  # At 45 degrees the box around it does not tell them apart.
        height = text.get_fontsize() * text.figure.figure.dpi / 72
        width = box.width / cos - height
    middle = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
    half, up = width / 2 * along, height / 2 * np.array(across)
    return np.array(
        [middle + half + up, middle + half - up, middle - half - up, middle - half + up]
    )


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a line lies between two rectangles, beside one of their sides."""
    for corners in (one, other):
        for side in (corners[1] - corners[0], corners[2] - corners[1]):
            a, b = (rectangle @ side / np.hypot(*side) for rectangle in (one, other))
            if a.max() <= b.min() + 0.5 or b.max() <= a.min() + 0.5:
                return True
    return False
