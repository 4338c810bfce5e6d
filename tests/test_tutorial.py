"""docs/tutorial.ipynb runs from top to bottom without a network, and shows pictures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
PICTURE = re.compile('src="data:image/png;base64,([^"]+)"')


def test_the_tutorial_is_kept_without_what_a_run_leaves_in_it() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count, cell.metadata) == ([], None, {})


@pytest.mark.packaged
def test_the_tutorial_runs_from_top_to_bottom_and_shows_pictures(
    packaged_cache: None,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    html = [output.data.get("text/html", "") for output in outputs if "data" in output]
    pictures = [content for one in html for content in PICTURE.findall(one)]
    assert len(pictures) == 7
    for content in pictures:
        assert matplotlib.image.imread(io.BytesIO(base64.b64decode(content))).std() > 0.1
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 4
    text = "\n".join(html)
    # What the text between the cells says of them.
    assert "readable from layer" in text
    assert "By its own last layer the answers have AUROC" in text
    assert "Reflecting the state at layer 10" in text
    assert text.count("<td>opposite") + text.count(">opposite<") == 2
