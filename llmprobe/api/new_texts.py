"""A saved probe and texts that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from llmprobe.api.states import require_named
from llmprobe.ground.errors import UserError
from llmprobe.models.in_memory import ModelInMemory
from llmprobe.monitors import tracing
from llmprobe.monitors.new_texts import ReadingOptions
from llmprobe.monitors.scoring import Scorer
from llmprobe.results.saved_probe import SavedProbe, load_probe
from llmprobe.results.trace import Trace


def trace(
    probe: SavedProbe | str | Path,
    texts: str | Sequence[str],
    *,
    model: str | Path | nn.Module | None = None,
    tokenizer: Any = None,
    template: str | None = None,
    too_long: str | None = None,
    trust_remote_code: bool = False,
) -> list[Trace]:
    """Compute what a saved probe says of texts at every token and layer.

    ``llmprobe.trace("runs/x/probes/smollm2-135m/capitals.safetensors", "Lima is in Peru.")`` is a
    list of one ``Trace``, with ``.tokens``, ``.layers`` and ``.scores`` [layers, tokens].

    Parameters
    ----------
    probe
        A probe, or its file.
    texts
        One or several, without the template of the probe's own texts, into which they are put.
    model
        A name, id or folder in place of the model that the probe remembers, or a model of
        transformers in memory, which is left as it was found.
    tokenizer
        That of a model in memory.
    template
        A template in place of the probe's own; ``"{text}"`` leaves texts as they are.
    too_long
        ``error`` or ``cut_left``; by default what it was for the probe's own texts.
    trust_remote_code
        Whether code that comes with the model may run.

    Raises
    ------
    UserError
        The probe is of no language model; its model cannot be loaded, or has changed; a text is
        empty or too long.
    """
    loaded, options, loan = _reading(
        "trace", probe, model, tokenizer, template, too_long, trust_remote_code
    )
    where = "the probe" if isinstance(probe, SavedProbe) else str(probe)
    texts = [texts] if isinstance(texts, str) else list(texts)
    with loan:
        return list(tracing.trace_probes([(where, loaded)], texts, options))


def score(
    probe: SavedProbe | str | Path,
    texts: str | Sequence[str] | pd.DataFrame,
    *,
    layer: int | None = None,
    fpr: float | None = None,
    threshold: float | None = None,
    model: str | Path | nn.Module | None = None,
    tokenizer: Any = None,
    template: str | None = None,
    too_long: str | None = None,
    trust_remote_code: bool = False,
) -> pd.DataFrame:
    """Classify texts with a saved probe: a row each, with what is ``predicted`` and its ``score``.

    Parameters
    ----------
    probe
        A probe, or its file.
    texts
        One or several, without the template of the probe's own texts; or a table with them in the
        column ``text``, and in others what else the template needs.
    layer
        By default the one where the probe does best.
    fpr, threshold
        A false positive rate, or a score: texts above it are ``flagged``. Whether the rate is
        guaranteed, ``SavedProbe.threshold`` says.
    model, tokenizer, template, too_long, trust_remote_code
        As of ``trace``.

    Returns
    -------
    pandas.DataFrame
        ``text``, or the given table, with ``predicted`` and ``score``: the probability of the last
        of two classes, that of the predicted one of more, or the predicted number; with ``fpr`` or
        ``threshold``, ``flagged`` too.

    Raises
    ------
    UserError
        As of ``trace``; the probe has no such layer, or no threshold for this rate.
    """
    loaded, options, loan = _reading(
        "score", probe, model, tokenizer, template, too_long, trust_remote_code
    )
    if isinstance(texts, str):
        texts = [texts]
    table = texts if isinstance(texts, pd.DataFrame) else pd.DataFrame({"text": list(texts)})
    with loan:
        scorer = Scorer(loaded, layer=layer, fpr=fpr, threshold=threshold, options=options)
        return scorer.score(table, "the texts", "texts")


def _reading(
    verb: str,
    probe: Any,
    model: Any,
    tokenizer: Any,
    template: str | None,
    too_long: str | None,
    trust_remote_code: bool,
) -> tuple[SavedProbe, ReadingOptions, AbstractContextManager[None]]:
    """Return a probe, how it reads new texts, and what leaves a model in memory as it was."""
    if not isinstance(probe, SavedProbe | str | Path):
        raise UserError(f"{verb}: {type(probe).__name__!r} is no probe; give one, or its file")
    if model is not None:
        require_named(model)
    loaded = probe if isinstance(probe, SavedProbe) else load_probe(probe)
    own = ModelInMemory(model, tokenizer) if isinstance(model, nn.Module) else None
    read_by = own or (None if model is None else str(model))
    options = ReadingOptions(read_by, template, too_long, trust_remote_code)
    return loaded, options, own.as_it_was() if own else nullcontext()
