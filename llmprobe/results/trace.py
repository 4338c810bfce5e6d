"""The type of a trace, what a probe says at every token and layer of a text, and its files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmprobe.ground.digests import UNSIGNED, read_back, signed
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import write_text
from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.ground.text import elide
from llmprobe.results.curve import curve_file_name, curve_title
from llmprobe.results.saved_probe import load_probe

log = logging.getLogger(__name__)

EXAMPLE_TRACES = "example_traces.json"
"""The file of a run folder with the traces of some of its own examples."""
TRACES = "traces"
"""The folder of a run folder with the traces of texts that its probes were given later."""


@dataclass(frozen=True, eq=False)
class Trace(ShownInNotebooks):
    """The scores of one probe at every token and layer of one text.

    The probe was fitted at one position, by default the last token; at other tokens it is not
    tested.
    """

    text: str
    """The text as the model read it, in its template if it has one."""
    tokens: list[str]
    """The text of each token; ``�`` for one that is a part of a character only."""
    layers: list[int]
    """The layers in rising order."""
    scores: np.ndarray
    """Probability of the class ``label``, or the predicted number. [layers, tokens]"""
    model: str
    """The name of the model."""
    dataset: str
    """The name of the dataset that the probe was fitted on."""
    best_layer: int
    """The layer where the probe does best on examples that it was not fitted on."""
    label: str | None
    """The last of two classes; of more, the one predicted for the whole text at the best layer.
    None when the probe predicts a number."""
    position: str
    """The position in a text at which the probe was fitted, such as last, span:FIELD or
    tokens:max."""
    probe: str
    """The ``SavedProbe.digest`` of the probe."""
    title: str = ""
    """What is known of an example, such as its label and the answer; empty for a new text."""
    read: Sequence[int] = ()
    """Indices of the tokens that the probe's position reads; empty where a text does not tell."""
    of_words: bool = False
    """Whether the probe's labels are of words, so that its position is within a labelled word."""

    def __repr__(self) -> str:
        text, subject, model = (elide(one, 60) for one in (self.text, self.subject, self.model))
        size = f"{len(self.tokens)} tokens × {len(self.layers)} layers"
        return f"Trace({text!r}: {size}, {subject!r} in {model!r})"

    @property
    def file_name(self) -> str:
        """Return the name of its file without a suffix: model, subject, and a hash of the text."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return f"{self.model}-{curve_file_name(self.dataset, self._told)}-{digest[:8]}"

    @property
    def subject(self) -> str:
        """Return the name of the dataset, with the position unless that is the last token."""
        return curve_title(self.dataset, self._told)

    @property
    def _told(self) -> str:
        return "" if self.position == "last" else self.position

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file, scores with four digits after the point."""
        return {**vars(self), "scores": np.round(self.scores, 4).tolist()}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Trace:
        """Return the trace that ``to_json`` turned into ``entry``.

        Raises
        ------
        UserError
            The entry is no trace.
        """
        try:
            entry = {key: value for key, value in entry.items() if key not in UNSIGNED}
            if "trace" in entry:  # Version 0.1.0 kept the title of an example beside its trace.
                entry = {**entry["trace"], "title": entry["title"]}
            read = tuple(map(int, entry.get("read", ())))
            scores = np.array(entry["scores"], dtype=float)
            trace = Trace(**{**entry, "scores": scores, "read": read})
            whole = trace.scores.shape == (len(trace.layers), len(trace.tokens))
            whole = whole and isinstance(trace.of_words, bool)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise UserError(f"not a trace: {error}") from None
        if trace.read and not set(trace.read) <= set(range(len(trace.tokens))):
            whole = False
        if not whole or trace.best_layer not in trace.layers:
            raise UserError("not a trace: its layers, tokens and scores do not fit each other")
        return trace


def write_traces(path: Path, traces: Trace | Sequence[Trace]) -> None:
    """Write one trace, or a list of them, as a JSON file for ``read_traces``.

    A single trace, which is read by itself, has the digest of its file inside.
    """
    content = {**UNSIGNED, **traces.to_json()} if isinstance(traces, Trace) else traces
    write_text(path, signed(json.dumps(content, default=Trace.to_json).encode()).decode())


def read_traces(path: Path) -> list[Trace]:
    """Read the traces of a JSON file, or of all ``.json`` files of a folder in order of names.

    Raises
    ------
    UserError
        A file is missing or damaged, or holds something else.
    """
    if path.is_dir():
        return [trace for file in sorted(path.glob("*.json")) for trace in read_traces(file)]
    try:
        content = json.loads(read_back(path))
        entries = [content] if isinstance(content, dict) else content
        return [Trace.from_json(entry) for entry in entries]
    except (OSError, ValueError, TypeError, UserError) as error:
        raise UserError(f"{path}: missing or damaged ({str(error).splitlines()[0]})") from None


def traces_of_run(run: Path) -> list[Trace]:
    """Read the traces of a run's examples, and then those of texts that its probes got later.

    Traces of one text in several models follow each other. Damaged files, and traces by probes that
    the run no longer has, are left out with a warning.
    """
    examples = _read_or_warn(run / EXAMPLE_TRACES)
    texts = list(dict.fromkeys((trace.dataset, trace.text) for trace in examples))
    examples.sort(key=lambda trace: texts.index((trace.dataset, trace.text)))
    later = _read_or_warn(run / TRACES)
    probes = {load_probe(path).digest for path in run.glob("probes/*/*.safetensors") if later}
    current = [trace for trace in later if trace.probe in probes]
    if len(current) < len(later):
        log.warning(
            "%s: %d of %d traces are of other probes than the run has now; trace the texts again",
            run / TRACES, len(later) - len(current), len(later),
        )  # fmt: skip
    return [*examples, *current]


def _read_or_warn(path: Path) -> list[Trace]:
    """Return no traces where there are none, or after a warning where a file is damaged."""
    try:
        return read_traces(path) if path.exists() else []
    except UserError as error:
        log.warning("%s", error)
        return []
