"""The site builds from the pages, with working links and every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag

import pytest

import llmprobe

ROOT = Path(__file__).parents[1]


class _Page(HTMLParser):
    """The links and the words of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built as ``docs/build.sh --quick`` does."""
    pytest.importorskip("myst_nb")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet",
            "-c", "docs", "-d", str(folder / "doctrees"), "-b", "html", ".", str(folder / "html"),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_site_is_built_without_a_warning_and_begins_with_the_readme(site: Path) -> None:
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()


def test_every_page_of_the_repository_is_on_the_site(site: Path) -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    for page in pages:
        name = page.relative_to(ROOT).with_suffix("")
        if name != Path("docs/contents") and name.parts[:2] != ("docs", "results"):
            assert (site / f"{name}.html").is_file(), page


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    html = (site / "docs/reference.html").read_text(encoding="utf-8")
    assert set(re.findall(r'id="llmprobe\.(\w+)"', html)) == set(llmprobe.__all__)


def test_what_stands_before_a_colon_in_a_docstring_is_no_type(site: Path) -> None:
    text = " ".join(_Page(site / "docs/reference.html").text.split())
    assert "A row for each repeat of the folds × layer × scored example: " in text
    assert "Type:" not in text


def test_a_local_link_leads_to_a_file_of_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        for link in _Page(page).links:
            path, _ = urldefrag(link)
            if path and "://" not in path:
                assert (page.parent / path).exists(), (page.name, link)


@pytest.mark.parametrize(
    ("link", "answers"),
    [
        (
            "docs/studies/sizes.html#the-four-answers",
            ["capital, readable best (AUROC)", "capital, said (AUROC)", "coin flip, said (AUROC)"],
        ),
        ("docs/said-used-linear.html#said", ["readable (AUROC, layer)", "said (AUROC)"]),
        ("docs/evidence.html#an-example", ["affirmed", "negated", "reads the opposite"]),
    ],
    ids=["all four questions", "is it said", "does it survive negation"],
)
def test_what_three_models_know_is_one_click_from_the_first_page(
    site: Path, link: str, answers: list[str]
) -> None:
    assert link in _Page(site / "index.html").links
    path, anchor = urldefrag(link)
    html = (site / path).read_text(encoding="utf-8")
    assert f'id="{anchor}"' in html
    text = " ".join(_Page(site / path).text.split())
    for words in ["smollm2-135m", "gemma-3-270m", "qwen2.5-coder-1.5b", *answers]:
        assert words in text, words
