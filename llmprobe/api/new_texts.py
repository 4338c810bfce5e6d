"""Saved probes on new texts."""

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
    """Compute the scores of a saved probe at every token and layer of some texts.

    ``llmprobe.trace("runs/x/probes/smollm2-135m/capitals.safetensors", "Lima is in Peru.")`` is a
    list of one ``Trace``, with ``.tokens``, ``.layers`` and ``.scores`` [layers, tokens].

    Parameters
    ----------
    probe
        A probe, or its file.
    texts
        One text or several; each is put into the template of the probe's own texts.
    model
        A name, id or folder in place of the model that the probe was fitted on; or a transformers
        model in memory, which is left unchanged.
    tokenizer
        The tokenizer of a model in memory.
    template
        A template in place of the probe's own; ``"{text}"`` leaves texts as they are.
    too_long
        ``error`` or ``cut_left``; by default as for the probe's own texts.
    trust_remote_code
        Whether code that comes with the model may run.

    Raises
    ------
    UserError
        The probe is not one of a language model; its model cannot be loaded, or has changed; a text
        is empty or too long.
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
    """Classify texts with a saved probe. Each text has a row, with ``predicted`` and ``score``.

    Parameters
    ----------
    probe
        A probe, or its file.
    texts
        One text or several, each put into the template of the probe's own texts; or a table with a
        column ``text``, and other columns that the template needs.
    layer
        The layer; by default the one where the probe does best.
    fpr, threshold
        A false positive rate, or a score. Texts that score above its threshold are ``flagged``;
        ``SavedProbe.threshold`` says whether the rate is guaranteed.
    model, tokenizer, template, too_long, trust_remote_code
        As for ``trace``.

    Returns
    -------
    pandas.DataFrame
        ``text``, or the given table, with ``predicted`` and ``score``. The score is the probability
        of the last of two classes, or of the predicted one of more, or the predicted number. With
        ``fpr`` or ``threshold`` there is a column ``flagged``.

    Raises
    ------
    UserError
        As for ``trace``; the probe has no such layer, or no threshold for this rate.
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
    """Return a probe, how it reads new texts, and a context that restores a model in memory."""
    if not isinstance(probe, SavedProbe | str | Path):
        raise UserError(f"{verb}: {type(probe).__name__!r} is no probe; give one, or its file")
    if model is not None:
        require_named(model)
    loaded = probe if isinstance(probe, SavedProbe) else load_probe(probe)
    own = ModelInMemory(model, tokenizer) if isinstance(model, nn.Module) else None
    read_by = own or (None if model is None else str(model))
    options = ReadingOptions(read_by, template, too_long, trust_remote_code)
    return loaded, options, own.as_it_was() if own else nullcontext()
