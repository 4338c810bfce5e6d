"""What the model itself says: its own head applied to the states that probes read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax  # type: ignore[import-untyped]

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.tokens import TokenisedTexts
from llmprobe.ground.errors import UserError
from llmprobe.models.answer_head import AnswerHead, answer_tokens
from llmprobe.models.loading import LoadedModel
from llmprobe.probing.transfer_scores import with_refitted_thresholds
from llmprobe.probing.workers import DatasetStates
from llmprobe.results.columns import SAID, with_layer_columns
from llmprobe.results.differences import difference_interval
from llmprobe.results.metrics import METRICS, Predictions
from llmprobe.results.predictions import first_repeat
from llmprobe.results.resampling import Resamples
from llmprobe.results.results import Results
from llmprobe.results.rivals import measured, predictions_of

CHECKED = 8
"""How many texts the model reads whole, to see what it writes next and whether states agree."""
_OFF = {"bfloat16": 0.05, "float16": 0.01}
"""How far a logit may be from the model's own, as a share of the largest; for float32, 0.001."""


@dataclass(frozen=True)
class Said:
    """What a model says of the examples of one dataset."""

    layers: pd.DataFrame
    """A row for each layer: ``layer`` and ``columns.SAID``; below the last by the logit lens."""
    summary: pd.DataFrame
    """One row: ``columns.SAID`` at the last layer, ``said_layer``, ``said_next_token_share``, and
    ``readable_minus_said`` with its interval."""

    def beside(self, results: Results) -> Results:
        """Return the results of one model, dataset and position with what the model says."""
        table = with_layer_columns(results.table, self.layers, SAID)
        known = {str(name): value for name, value in self.summary.iloc[0].items()}
        return replace(results, table=table, summary=results.summary.assign(**known))


def why_not(model: object, dataset: ConceptDataset, site: str, position: str) -> str:
    """Return why a model cannot be asked what it says here; empty where it can."""
    if not isinstance(model, ModelConfig):
        return "The states are from elsewhere, so there is no model to ask."
    if model.weights == "random":
        return "The weights are random, so the model says nothing."
    if site != "residual":
        return f"The head reads the residual stream, but these are states of the site {site}."
    if position != "last":
        return (f"An answer begins after the last token, but these are states at {position}; take "
                "extract.position: last.")  # fmt: skip
    if dataset.turns is not None and any(t[-1].role == "assistant" for t in dataset.turns):
        return "A chat ends with the model’s turn, so no answer begins there."
    return ""


def said(
    head: Any,
    base: LoadedModel,
    extractor: Extractor,
    dataset: ConceptDataset,
    states: DatasetStates,
    results: Results,
    seed: int,
) -> Said:
    """Apply a model's own head to stored states, and compare it with what a probe reads of them.

    At the last layer this is what the model says: the log-odds of the words of its answers, each
    by its first token. Below, it is the logit lens (nostalgebraist 2020), which reads states in the
    last layer's basis; earlier layers need not write in that basis (Belrose et al. 2023,
    "Eliciting latent predictions from transformers with the tuned lens").

    Parameters
    ----------
    head, base
        The model, as ``load_language_model`` returns it.
    states
        The states of the dataset at the last token of its question.
    results
        What the probe reads of the same states.
    seed
        The seed of the resamples.

    Raises
    ------
    UserError
        The last layer was not read; words of two labels begin with the same token; the kind of the
        head is not known, or its logits differ from the model's.
    """
    last = base.n_blocks
    if last not in states.layers:
        raise UserError(f"The last layer, {last}, was not read (extract.layers).")
    tokens = extractor.tokens_at(["last"], dataset, base.tokenizer, base.module)
    words = answer_tokens(base.tokenizer, _read(tokens, 0), dataset.answers, dataset.name)
    asked = AnswerHead(head, base, words)
    share = _checked(asked, tokens, states.layer(last))
    (curve,) = results.curves
    ours = first_repeat(results.predictions[results.predictions["layer"] == curve.layer])
    ours = ours.sort_values("example")
    rows = ours["example"].to_numpy()
    truth = pd.Index(words.labels).get_indexer(pd.Index(ours["label"].astype(str)))
    units = dataset.units
    resamples = Resamples(len(rows), None if units is None else units[rows], seed)

    def answers(layer: int) -> tuple[Predictions, np.ndarray]:
        logits = asked.label_logits(torch.from_numpy(states.layer(layer)[rows])).numpy()
        return Predictions(truth, softmax(logits.astype(float), axis=1), resamples), logits

    of_layers = []
    for layer in states.layers:
        predictions, logits = answers(layer)
        of_layers.append({"layer": layer, **_scores(predictions, logits, ours["fold"].to_numpy())})
    layers = pd.DataFrame(of_layers)[["layer", *SAID]]
    at_end = layers[layers["layer"] == last].iloc[0]
    summary = {name: float(at_end[name]) for name in SAID}
    theirs = measured(METRICS["auroc"], answers(last)[0])
    probe = measured(METRICS["auroc"], predictions_of(ours, curve.classes, resamples))
    low, high = difference_interval(theirs[0], probe[0], theirs[1], probe[1])
    summary |= {
        "said_layer": _from_where(layers, summary),
        "said_next_token_share": share,
        "readable_minus_said": probe[0][0] - theirs[0][0],
        "readable_minus_said_low": low,
        "readable_minus_said_high": high,
    }
    return Said(layers, pd.DataFrame([summary]))


def _read(tokens: TokenisedTexts, row: int) -> list[int]:
    """Return the tokens of a text up to the one that is read."""
    return tokens.ids[row][: tokens.places[row][0][-1] + 1]


def _checked(asked: AnswerHead, tokens: TokenisedTexts, states: np.ndarray) -> float:
    """Compare stored states with the model's own logits of some texts, read whole.

    -> the share of these texts after which the model would next write an answer

    Raises
    ------
    UserError
        They do not agree.
    """
    rows = np.unique(np.linspace(0, len(states) - 1, CHECKED).astype(int)).tolist()
    chosen = []
    for row in rows:
        own, _, following = asked.own(_read(tokens, row))
        off = float((asked.logits(torch.from_numpy(states[row][None]))[0] - own).abs().max())
        most = _OFF.get(str(asked.model.dtype).removeprefix("torch."), 1e-3)
        if not off <= most * max(float(own.abs().max()), 1.0):
            raise UserError(f"The stored states give other logits than the model: {off:.2g} off.")
        chosen.append(following in asked.tokens.ids)
    return float(np.mean(chosen))


def _scores(predictions: Predictions, logits: np.ndarray, fold_of: np.ndarray) -> dict[str, float]:
    """Return ``columns.SAID`` of one layer, from the logits of the labels [n, C]."""
    auroc = METRICS["auroc"].score([predictions])
    refitted = with_refitted_thresholds(predictions.truth, logits.astype(float), fold_of)
    accuracy = METRICS["accuracy"].estimate(predictions)
    numbers = (*(auroc[name] for name in METRICS["auroc"].columns), accuracy, refitted)
    return dict(zip(SAID, numbers, strict=True))


def _from_where(layers: pd.DataFrame, summary: dict[str, float]) -> float:
    """Return the first layer from which on the logit lens stays in the last layer's interval.

    NaN if that interval includes chance, so that the model says nothing.
    """
    low, high = summary["said_auroc_low"], summary["said_auroc_high"]
    if not (low > 0.5 or high < 0.5):
        return np.nan
    inside = layers["said_auroc"].between(low, high).to_numpy()
    outside = np.flatnonzero(~inside)
    return float(layers["layer"].iloc[outside[-1] + 1 if len(outside) else 0])
