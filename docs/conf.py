"""The site: README.md is its first page, and each page has its path of the repository.

So a link between two pages is the same on both. Built by ``bash docs/build.sh``.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring

import llmprobe

ROOT = Path(__file__).resolve().parents[1]

project = "llmprobe"
copyright = "llmprobe authors, Apache-2.0"
version = release = llmprobe.__version__
html_title = f"llmprobe {release}"
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

root_doc = "README"
include_patterns = ["*.md", "data/README.md", "docs/**"]
exclude_patterns = [
    ".*", "build", "changelog.d", "dist", "llmprobe", "runs", "scripts", "shared", "tests",
    "docs/contents.md", "docs/examples", "docs/results", "docs/static",
]  # fmt: skip

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "dollarmath"]
# The notebook is kept without outputs; `bash docs/build.sh` runs it.
nb_execution_mode = "off"
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
# Those two are scikit-learn's, and speak of its own pages.
autodoc_default_options = {
    "members": True, "exclude-members": "set_fit_request, set_score_request",
}  # fmt: skip
napoleon_google_docstring = False
nitpicky = True
# No other project's site is at hand offline, and only public names have a place here.
nitpick_ignore_regex = [("py:.*", r"(?!llmprobe\.\w+$).*")]


def add_contents(_: Sphinx, docname: str, source: list[str]) -> None:
    """Put the list of all pages below the first one, where GitHub shows none."""
    if docname == root_doc:
        source[0] += (ROOT / "docs/contents.md").read_text(encoding="utf-8")


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Copy the first page to the name under which servers look for it."""
    if app.builder.name == "html" and error is None:
        page = Path(app.outdir) / f"{root_doc}.html"
        page.with_name("index.html").write_bytes(page.read_bytes())


def parse_as_prose(docstring: NumpyDocstring) -> list[str]:
    """Parse a field's docstring as any other: what stands before a colon in it is no type."""
    docstring._what = "method"
    docstring._parse()
    return []


def setup(app: Sphinx) -> None:
    """Do what Sphinx has no setting for."""
    NumpyDocstring._parse_attribute_docstring = parse_as_prose
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
