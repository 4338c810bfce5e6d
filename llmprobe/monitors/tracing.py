"""From texts and saved probes to traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llmprobe.extraction.capture import Capture
from llmprobe.extraction.every_token import read_every_token
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.token_strings import pieces
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.monitors.new_texts import as_read, reader_of, require_its_model, tokens_of
from llmprobe.results.saved_probe import SavedProbe, load_probe
from llmprobe.results.trace import Trace


def trace(extractor: Extractor, probe: SavedProbe, texts: Sequence[str]) -> list[Trace]:
    """The scores of ``probe`` at every token and layer of texts, each run alone.

    Parameters
    ----------
    extractor
        Of the probe's model and site.
    texts
        As the model shall read them: in their template, but not yet in a chat template.

    Raises
    ------
    UserError
        A text is too long or has no tokens; a state is not finite.
    """
    width = max(len(probe.classes), 1)

    def read(layer: int, states: np.ndarray) -> np.ndarray:
        if probe.classes:
            return probe.predict_proba(states, layer)
        return probe.decision_function(states, layer)[:, None]

    traces = []
    tokenizer = extractor.model.tokenizer
    with Capture(extractor.model, extractor.config.site) as capture:
        for number, text in enumerate(texts):
            where = f"text {number + 1} of {len(texts)}" if len(texts) > 1 else "the text"
            tokens = tokens_of(extractor, [text], where, position="last").ids[0]
            scores = read_every_token(capture, tokens, width, read)
            at_best = scores[list(capture.layers).index(probe.best_layer)]
            # A probe of the first token answers there.
            asked = 0 if extractor.config.position == "first" else len(tokens) - 1
            column = 1 if width == 2 else int(at_best[asked].argmax())
            traces.append(
                Trace(
                    text=text,
                    tokens=pieces(tokenizer, tokens),
                    layers=list(capture.layers),
                    scores=scores[:, :, column],
                    model=str(probe.facts["model"]),
                    dataset=str(probe.facts["dataset"]),
                    best_layer=probe.best_layer,
                    label=str(probe.classes[column]) if probe.classes else None,
                    position=extractor.config.position,
                    probe=probe.digest,
                )
            )
    return traces


def trace_texts(
    probe: SavedProbe,
    texts: Sequence[str],
    where: str,
    *,
    model: str | None = None,
    template: str | None = None,
    too_long: str | None = None,
    trust_remote_code: bool = False,
) -> list[Trace]:
    """``trace`` with the probe's own model, or ``model``, and texts put into their template.

    Raises
    ------
    UserError
        As ``trace``; the model cannot be loaded, or has changed. ``where`` names the probe.
    """
    ready = _in_template(probe, texts, template, where)
    extractor = reader_of(
        probe, where, model=model, too_long=too_long, trust_remote_code=trust_remote_code
    )
    require_its_model(probe, extractor, where, chosen=model is not None)
    return trace(extractor, probe, ready)


def trace_run(
    run: Path,
    texts: Sequence[str],
    *,
    models: Sequence[str] = (),
    datasets: Sequence[str] = (),
    template: str | None = None,
    too_long: str | None = None,
    trust_remote_code: bool = False,
) -> Iterator[Trace]:
    """A trace of each text by each probe of a run folder, or by one probe file.

    Parameters
    ----------
    texts
        To be put into the template that the probe's own texts stood in, or into ``template``.
    models, datasets
        The names of those wanted; all if none are given.

    Raises
    ------
    UserError
        As ``trace_texts``; there is no such run, model or dataset.
    """
    chosen = [
        (str(path), probe, _in_template(probe, texts, template, str(path)))
        for path, probe in _chosen(run, models, datasets)
    ]
    extractor: Extractor | None = None
    for where, probe, ready in chosen:
        reader = reader_of(probe, where, too_long=too_long, trust_remote_code=trust_remote_code)
        # Probes of one model follow each other, so it is loaded once.
        if extractor is None or _differ(extractor, reader):
            extractor = reader
        require_its_model(probe, extractor, where)
        yield from trace(extractor, probe, ready)


def _in_template(
    probe: SavedProbe, texts: Sequence[str], template: str | None, where: str
) -> list[str]:
    for number, text in enumerate(texts):
        if not text.strip():
            which = f"number {number + 1} " if len(texts) > 1 else ""
            raise UserError(f"--text {which}is empty; give one such as 'Lima is in Peru.'")
        # What was typed in another encoding comes as halves of surrogate pairs.
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"--text {text!r:.80}: not in UTF-8, so no text that a model can read")
    return as_read(probe, pd.DataFrame({"text": list(texts)}), template, where)[0]


def trace_folder(run: Path) -> Path:
    """Where traces of a run folder, or of one of its probes, go; beside a probe of its own."""
    if run.is_file():
        beside, *above = run.absolute().parents
        run = above[1] if above and above[0].name == "probes" else beside
    return run / "traces"


def _differ(one: Extractor, other: Extractor) -> bool:
    return (one.model_config, one.config) != (other.model_config, other.config)


def _chosen(
    run: Path, models: Sequence[str], datasets: Sequence[str]
) -> list[tuple[Path, SavedProbe]]:
    """The probes of a run that are wanted, or the one of a file."""
    if run.is_file():
        paths = [run]
    elif run.is_dir():
        paths = sorted(run.glob("probes/*/*.safetensors"))
    else:
        raise UserError(f"{run}: no such run folder or probe file")
    if not paths:
        raise UserError(f"{run}: has no saved probes (probes/MODEL/DATASET.safetensors), which "
                        "`llmprobe run` leaves")  # fmt: skip
    probes = [(path, load_probe(path)) for path in paths]
    for kind, wanted in (("model", models), ("dataset", datasets)):
        known = {str(probe.facts.get(kind)) for _, probe in probes}
        for name in wanted:
            if name not in known:
                raise UserError(f"{run}: no probe of {kind} {name!r}; {suggestion(name, known)}")
    chosen = [
        (path, probe)
        for path, probe in probes
        if (not models or probe.facts["model"] in models)
        and (not datasets or probe.facts["dataset"] in datasets)
    ]
    if not chosen:
        raise UserError(f"{run}: no probe of these models on these datasets")
    return chosen
