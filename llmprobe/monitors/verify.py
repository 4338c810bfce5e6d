"""Whether an engine gives the states that a probe was fitted on, by the probe's golden examples."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmprobe.config.schema import ActivationsConfig
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.every_token import read_every_token
from llmprobe.extraction.states_files import StatesFile
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import write_text
from llmprobe.models.layers import final_norm
from llmprobe.models.loading import LoadedModel
from llmprobe.monitors.new_texts import NewTextReader, ReadingOptions
from llmprobe.results.saved_probe import GoldenExample, SavedProbe

log = logging.getLogger(__name__)

TOLERANCE = {"float16": 0.02, "bfloat16": 0.15}
"""How far a logit may be off, as a share of the length of direction × state, by dtype. Rounding
reaches half of it, and a layer too early or too late three times as much."""
PRECISE = 1e-3
"""The same for float32 and float64."""


@dataclass(frozen=True)
class Answers:
    """What a probe says of the states of one text. Each [layers, tokens, K]"""

    logits: np.ndarray
    normed: np.ndarray
    """The logits of the states after the model's final norm; NaN where it has none."""
    size: np.ndarray
    """The length of direction × state, the scale of rounding errors."""

    def at(self, place: int, positions: Sequence[int], normed: bool = False) -> np.ndarray:
        """Return the logits of a layer, by its index, averaged over some tokens. [K]"""
        logits = self.normed if normed else self.logits
        mean: np.ndarray = logits[place, list(positions)].mean(axis=0)
        return mean


def golden_of(probe: SavedProbe, where: str) -> tuple[GoldenExample, ...]:
    """Return the golden examples of a probe.

    Raises
    ------
    UserError
        It has none.
    """
    if not probe.golden:
        raise UserError(
            f"{where}: has no golden examples, since it was fitted on arrays or by an older "
            "version, or it pools scores of tokens; a run of a model on texts leaves some"
        )
    return probe.golden


def write_golden(probe: SavedProbe, where: str, file: Path) -> None:
    """Write the golden examples as JSON, so that another engine can be asked for them.

    Raises
    ------
    UserError
        There are none.
    """
    examples = [vars(example) for example in golden_of(probe, where)]
    write_text(file, json.dumps(examples, indent=1) + "\n")


def verify(
    probe: SavedProbe,
    where: str,
    options: ReadingOptions,
    states: ActivationsConfig | None = None,
) -> Iterator[str]:
    """Yield lines that compare an engine's logits of the golden examples with those expected.

    Parameters
    ----------
    where
        What the probe is called in errors.
    states
        Another engine's states of the golden token ids: a row for each example, or for each of
        their tokens, or a folder of requests. By default the probe's own model runs them.

    Raises
    ------
    UserError
        The logits do not agree (the message says how they differ); the probe has no golden
        examples; the states are not of them; the model cannot be loaded.
    """
    golden = golden_of(probe, where)
    reader = NewTextReader(probe, where, options)
    expected = np.array([np.atleast_1d(example.logit) for example in golden])
    if states is None:
        reader.require_own_model()
        own = Own(reader.extractor.model, reader.extractor.config.site, probe)
        logits, size = own.of_golden(probe.golden)
        engine, dtypes = own.name, [own.dtype]
    else:
        other = Other(StatesFile(states, _rows(golden)), golden, probe)
        logits, size = other.logits(0), other.size()
        engine, dtypes = str(states.path), [other.file.dtype]
    dtypes.append(str(probe.facts.get("dtype", "float32")))
    tolerance = tolerated(size, dtypes)
    layers = probe.layers_in_words(golden[0].layer)
    yield f"{where}: {layers}, {len(golden)} golden examples, in {engine}"
    yield "example  tokens  expected        engine    difference  tolerance"
    for number, example in enumerate(golden):
        worst = int(np.abs((logits - expected)[number] / tolerance[number]).argmax())
        a, b, t = (values[number, worst] for values in (expected, logits, tolerance))
        yield f"{number:7}  {len(example.token_ids):6}  {a:+8.4f}      {b:+8.4f}      " \
              f"{b - a:+8.4f}   {t:8.4f}"  # fmt: skip
    off = times_off(logits, expected, tolerance)
    if off <= 1:
        rounding = " and ".join(dict.fromkeys(dtypes))
        yield f"they agree: differences are within the rounding of {rounding}"
        return
    difference = float(np.abs(logits - expected).max())
    problem = (
        f"{engine}: does not agree with the golden examples of {where}: logits differ by up to "
        f"{difference:.3g}, {off:.3g} times what rounding explains"
    )
    if states is None:
        raise UserError(f"{problem}; other weights, or another version of transformers")
    raise UserError(f"{problem}; {_explanation(other, reader, tolerance)}")


class Own:
    """The probe's own model, which gives the logits at other tokens and layers too."""

    def __init__(self, model: LoadedModel, site: str, probe: SavedProbe) -> None:
        self.probe, self.model, self.site = probe, model, site
        self.name = model.name
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        with Capture(self.model, self.site) as capture:
            self.layers = list(capture.layers)
        norm = final_norm(self.model.module) if self.site == "residual" else None
        self.norm: Any = norm

    def answers(self, token_ids: Sequence[int]) -> Answers:
        """Run one whole text, and apply the probe to every state of it.

        Raises
        ------
        UserError
            A token id is not in the model's vocabulary; a state is not finite.
        """
        module: Any = self.model.module
        if max(token_ids) >= module.get_input_embeddings().num_embeddings:
            raise UserError(f"{self.name}: has no token {max(token_ids)}; it is another model")
        layer, coef = self.probe.golden[0].layer, self.probe.coef[self.probe.golden[0].layer]
        reads = self.probe.layers_of(layer)
        of_layers = np.split(coef, len(reads), axis=1)

        def read(_: int, states: np.ndarray) -> np.ndarray:
            columns = [states, self._normed(states)]
            logits = [X.astype(float) @ part.T for X in columns for part in of_layers]
            return np.hstack([*logits, *(_size(states, part) ** 2 for part in of_layers)])

        with Capture(self.model, self.site) as capture:
            values = read_every_token(capture, list(token_ids), 3 * len(coef) * len(reads), read)
        # A probe of several layers: the parts of all are added up at the index of the deepest.
        parts = values.reshape(*values.shape[:2], 3, len(reads), len(coef))
        total = np.full_like(parts[..., 0, :], np.nan)
        before = [self.layers.index(layer) - self.layers.index(one) for one in reads]
        for place in range(before[0], len(self.layers)):
            total[place] = sum(parts[place - by, ..., i, :] for i, by in enumerate(before))
        intercept = self.probe.intercept[layer]
        return Answers(
            total[:, :, 0] + intercept, total[:, :, 1] + intercept, np.sqrt(total[:, :, 2])
        )

    def _normed(self, states: np.ndarray) -> np.ndarray:
        if self.norm is None:
            return np.full_like(states, np.nan)
        weights = next(self.norm.parameters(), torch.zeros(1))
        given = torch.from_numpy(states).to(weights.device, weights.dtype)
        normed: np.ndarray = self.norm(given).float().cpu().numpy()
        return normed

    def of_golden(self, golden: Sequence[GoldenExample]) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of examples, and the length of direction × state. Each [G, K]"""
        place = self.layers.index(golden[0].layer)
        answers = [self.answers(example.token_ids) for example in golden]
        pairs = list(zip(answers, golden, strict=True))
        logits = [answer.at(place, example.positions) for answer, example in pairs]
        sizes = [answer.size[place, list(example.positions)].mean(axis=0)
                 for answer, example in pairs]  # fmt: skip
        return np.array(logits), np.array(sizes)


class Other:
    """Another engine's states of the golden examples."""

    def __init__(
        self, file: StatesFile, golden: Sequence[GoldenExample], probe: SavedProbe
    ) -> None:
        self.file, self.golden, self.probe = file, golden, probe
        self.layer = golden[0].layer
        self.other_ids: str | None = None
        """How the token ids of its requests differ from the golden ones, if they do."""
        self._row_of = self._requests() if file.requests is not None else []
        self.reads, width = probe.layers_of(self.layer), probe.hidden_size
        if missing := sorted(set(self.reads) - set(file.layers)):
            layers = ", ".join(map(str, file.layers[:40]))
            raise UserError(
                f"{file.where}: has no layer {missing[0]}, which the golden examples need, but "
                f"{layers}; `--set layer_offset=N` or `--set layers=[…]` says which they are"
            )
        if file.width(self.layer) != width:
            raise UserError(
                f"{file.where}: layer {self.layer} has {file.width(self.layer)} features, and the "
                f"probe's model has {width}: it is another model"
            )

    def logits(self, moved: int) -> np.ndarray:
        """Return the logits of the examples by the states ``moved`` layers deeper. [G, K]"""
        return np.array([self._logits(states, example) for states, example in self._each(moved)])

    def size(self) -> np.ndarray:
        """Return the length of direction × state. [G, K]"""
        coef = self.probe.coef[self.layer]
        return np.array([
            _size(states[self._places(states, example)], coef).mean(axis=0)
            for states, example in self._each(0)
        ])  # fmt: skip

    def _logits(self, states: np.ndarray, example: GoldenExample) -> np.ndarray:
        places = self._places(states, example)
        logits = self.probe.decision_function(states[places], self.layer)
        mean: np.ndarray = logits.reshape(len(places), -1).mean(axis=0)
        return mean

    def _places(self, states: np.ndarray, example: GoldenExample) -> list[int]:
        """Return which rows of states [tokens, d] are read: if tokens differ, from the end."""
        if len(states) == 1:
            return [0]
        n = len(example.token_ids)
        moved = len(states) - n
        return [p + moved for p in example.positions if p + moved >= 0] or [len(states) - 1]

    def _each(self, moved: int) -> Iterator[tuple[np.ndarray, GoldenExample]]:
        """Yield each example's states at a layer, of all tokens or of one. [tokens or 1, d]"""
        layers = [layer + moved for layer in self.reads]
        if self.file.requests is not None:
            for row, example in zip(self._row_of, self.golden, strict=True):
                yield np.hstack([self.file.tokens(row, layer) for layer in layers]), example
            return
        states = np.hstack([self.file.layer(layer) for layer in layers])
        lengths = [len(example.token_ids) for example in self.golden]
        if len(states) == len(self.golden):
            lengths = [1] * len(self.golden)
        parts = np.split(states, np.cumsum(lengths)[:-1])
        yield from zip(parts, self.golden, strict=True)

    def _requests(self) -> list[int]:
        """Return the request of each golden example, by its token ids."""
        requests = self.file.requests or []
        row_of = {request.token_ids: row for row, request in enumerate(requests)}
        rows = []
        for number, example in enumerate(self.golden):
            ids = example.token_ids
            more = [row for given, row in row_of.items() if given[1:] == ids]
            if ids in row_of:
                rows.append(row_of[ids])
            elif more:
                first = requests[more[0]].token_ids[0]
                self.other_ids = (
                    f"its token ids begin with {first}, a BOS that the golden examples do not have "
                    "there: ask it for token ids, not for text"
                )
                rows.append(more[0])
            elif ids[1:] in row_of:
                self.other_ids = (
                    f"its token ids lack the first one, {ids[0]}, a BOS: ask it for the golden "
                    "token ids as they are"
                )
                rows.append(row_of[ids[1:]])
            else:
                raise UserError(
                    f"{self.file.where}: no request has the token ids of golden example {number}; "
                    "`llmprobe verify PROBE --write golden.json` writes them"
                )
        return rows


def _explanation(other: Other, reader: NewTextReader, tolerance: np.ndarray) -> str:
    """Explain how the states of another engine differ from those of the examples."""
    if other.other_ids is not None:
        return other.other_ids
    expected = np.array([np.atleast_1d(example.logit) for example in other.golden])
    fits: list[tuple[float, str]] = []
    for moved in (-1, 1):
        if {layer + moved for layer in other.reads} <= set(other.file.layers):
            off = times_off(other.logits(moved), expected, tolerance)
            fits.append((off, _layers_off(-moved, other)))
    try:
        if not reader.extractor.is_local:
            raise UserError("its model is not on this disk")
        reader.require_own_model()
        logits = other.logits(0)
        for words, own in _alternatives(
            Own(reader.extractor.model, reader.extractor.config.site, other.probe), other
        ):
            fits.append((times_off(logits, own, tolerance), words))
    except UserError as error:
        log.warning("a missing BOS, a norm and other tokens are not tried: %s", error)
    fits = [(off, words) for off, words in fits if off <= 1]
    if not fits:
        return (
            "neither a BOS too many or too few, nor the layer before or after, nor the final norm, "
            "nor another token explains it"
        )
    return min(fits)[1]


def _alternatives(own: Own, other: Other) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each possible mistake, and the logits that the own model gives with it. [G, K]"""
    golden = other.golden
    at = own.layers.index(other.layer)
    bos, eos = own.model.tokenizer.bos_token_id, own.model.tokenizer.eos_token_id

    def logits(
        answers: Sequence[Answers], place: int, shift: int, normed: bool = False
    ) -> np.ndarray:
        return np.array([
            answer.at(place, [max(p + shift, 0) for p in example.positions], normed)
            for answer, example in zip(answers, golden, strict=True)
        ])  # fmt: skip

    as_they_are = [own.answers(example.token_ids) for example in golden]
    texts = [("", as_they_are, 0)]
    begins = all(example.token_ids[0] == bos for example in golden)
    if begins and all(example.positions[0] > 0 for example in golden):
        words = f"the BOS ({bos}) is missing: ask the engine for the golden token ids as they are"
        texts.append((words, [own.answers(example.token_ids[1:]) for example in golden], -1))
    if bos is not None:
        words = (
            f"a BOS ({bos}) was put before {'that of ' * begins}the golden token ids: ask the "
            "engine for token ids, not for text"
        )
        texts.append((words, [own.answers((bos, *example.token_ids)) for example in golden], 1))
    for words, answers, shift in texts:
        if words:
            yield words, logits(answers, at, shift)
        for moved in (-1, 1):
            if 0 <= at + moved < len(own.layers):
                both = f"{words}; and " * bool(words) + _layers_off(moved, other)
                yield both, logits(answers, at + moved, shift)
    if own.norm is not None:
        yield (
            "the states are those after the model's final norm; read what the block returns",
            logits(as_they_are, at, 0, normed=True),
        )
    yield (
        "the states are of the token before the one that is read",
        logits(as_they_are, at, -1),
    )
    yield "the states are of the first token", logits(as_they_are, at, -(10**9))
    if eos is not None:
        answers = [own.answers((*example.token_ids, eos)) for example in golden]
        yield (
            f"an EOS ({eos}) was put after the golden token ids, and its state was read",
            np.array([answer.at(at, [-1]) for answer in answers]),
        )


def _layers_off(moved: int, other: Other) -> str:
    """Say that the states file numbers its layers off by one."""
    which = "after" if moved > 0 else "before"
    offset = other.file.config.layer_offset + moved
    return (
        f"its layer {other.layer} is the one {which} it, off by one: layer 0 enters the first "
        f"block; `--set layer_offset={offset}` moves them"
    )


def _rows(golden: Sequence[GoldenExample]) -> set[int]:
    """Return how many rows the states may have: one for each example, or for each token."""
    return {len(golden), sum(len(example.token_ids) for example in golden)}


def _size(states: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """Return the length of direction × state. [n, d], [K, d] -> [n, K]"""
    size: np.ndarray = np.sqrt((states.astype(float) ** 2) @ (coef**2).T)
    return size


def tolerated(size: np.ndarray, dtypes: Iterable[str]) -> np.ndarray:
    """Return how far logits may be off, by the length of direction × state [G, K] and dtypes."""
    share = max(TOLERANCE.get(dtype, PRECISE) for dtype in dtypes)
    tolerance: np.ndarray = share * np.maximum(size, 1e-9)
    return tolerance


def times_off(logits: np.ndarray, expected: np.ndarray, tolerance: np.ndarray) -> float:
    """Return the largest difference in units of the tolerance."""
    off = np.abs(logits - expected) / tolerance
    return float(np.where(np.isnan(off), np.inf, off).max())
