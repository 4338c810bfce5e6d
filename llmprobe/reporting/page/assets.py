"""The templates, styles and scripts of the pages."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from llmprobe.ground.text import elide


def asset(name: str) -> str:
    """Return the text of a file that pages are made of."""
    return files("llmprobe.reporting.page").joinpath("html", name).read_text("utf-8")


def template(name: str) -> Template:
    """Return a template, which escapes every value that is not ``Markup``."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("llmprobe.reporting.page", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["elide"] = elide
    return environment
