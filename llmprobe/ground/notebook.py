"""Objects that a notebook shows as a table and a picture."""

from __future__ import annotations

from importlib import import_module


class ShownInNotebooks:
    """What Jupyter shows is made by ``reporting.notebook``, by the name of the class."""

    def _repr_html_(self) -> str:
        # By name, since drawing lies above: whoever only prints an object never loads matplotlib.
        shown: str = import_module("llmprobe.reporting.notebook").html_of(self)
        return shown
