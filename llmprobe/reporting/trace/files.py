"""The files of a trace: page, numbers and figure."""

from __future__ import annotations

from pathlib import Path

from llmprobe.ground.files import write_text
from llmprobe.reporting.charts.style import save
from llmprobe.reporting.trace.figure import trace_figure
from llmprobe.reporting.trace.page import trace_page
from llmprobe.results.trace import Trace, write_traces


def write_trace(trace: Trace, folder: Path) -> list[Path]:
    """Write a trace as ``MODEL-DATASET-HASH`` .html, .json, .png and .svg. -> their paths"""
    page, numbers = (folder / f"{trace.file_name}{suffix}" for suffix in (".html", ".json"))
    write_text(page, trace_page(trace))
    write_traces(numbers, trace)
    return [page, numbers, *save(trace_figure(trace), folder, trace.file_name)]
