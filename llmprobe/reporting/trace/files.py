"""The files of a trace, and traces from their files."""

from __future__ import annotations

import json
from pathlib import Path

from llmprobe.ground.errors import UserError
from llmprobe.ground.files import write_text
from llmprobe.reporting.charts.style import save
from llmprobe.reporting.trace.figures import trace_figure
from llmprobe.reporting.trace.page import trace_page
from llmprobe.results.trace import Trace


def write_trace(trace: Trace, folder: Path) -> list[Path]:
    """Write it as ``MODEL-DATASET-HASH`` .html, .json, .png and .svg. -> their paths"""
    page, numbers = (folder / f"{trace.file_name}{suffix}" for suffix in (".html", ".json"))
    write_text(page, trace_page(trace))
    write_text(numbers, json.dumps(trace.to_json()))
    return [page, numbers, *save(trace_figure(trace), folder, trace.file_name)]


def read_traces(folder: Path) -> list[Trace]:
    """The traces that a folder has, by the names of their files.

    Raises
    ------
    UserError
        A .json file is damaged or holds something else.
    """
    traces = []
    for path in sorted(folder.glob("*.json")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            traces.append(Trace.from_json(facts))
        except (OSError, ValueError, UserError) as error:
            raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    return traces
