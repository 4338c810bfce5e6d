"""Objects that a notebook shows as a table and a picture."""

from __future__ import annotations

from importlib import import_module


class ShownInNotebooks:
    """A base of classes whose objects Jupyter shows as ``reporting.notebook`` draws them."""

    def _repr_html_(self) -> str:
        # Imported by name, since drawing is a higher layer: printing an object loads no matplotlib.
        shown: str = import_module("llmprobe.reporting.notebook").html_of(self)
        return shown
