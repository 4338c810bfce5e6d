"""The type of a saved probe, and its safetensors file, which explains itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save
from scipy.special import softmax  # type: ignore[import-untyped]

from llmprobe.ground.digests import UNSIGNED, read_back, signed
from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.ground.files import whole_file
from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.ground.text import elide, listed
from llmprobe.results.depth import peak_index
from llmprobe.results.operating import OperatingPoints, Threshold, by_hand

FORMAT = "llmprobe-probe-1"

HOW_READ = (
    "model_id", "revision", "weights", "seed", "quantization", "dtype", "trust_remote_code",
    "chat_template", "too_long",
)  # fmt: skip
"""Names of facts that tell, besides site, position and template, how a probe's own texts were read,
so that other texts can be read in the same way."""

READ_WITH = (
    "tokenizer", "tokenizer_revision", "adapter", "adapter_revision", "convert", "in_memory",
    "special", "occurrence", "blocks", "chat", "of_words",
)  # fmt: skip
"""Names of further facts of that kind, which a probe has where they say more than the default.
``blocks`` is the model's number of blocks, which older probes lack; ``chat`` has options of the
chat template as JSON, for a probe of chats; ``of_words`` tells that labels are of words."""

_WORDS = (
    "model", "dataset", "site", "position", "kind", "template", "perturbation", "class_names",
)  # fmt: skip
_KINDS = {"seed": int, "trust_remote_code": bool, "chat_template": bool, "convert": bool,
          "in_memory": bool, "blocks": int, "of_words": bool, "class_names": dict}  # fmt: skip
"""The types of facts that are not text."""


@dataclass(frozen=True)
class GoldenExample:
    """One of a probe's own texts, with the probe's logit: a test for any engine.

    The text is exactly ``token_ids``; the state is that of ``layer`` at the probe's site.
    """

    token_ids: tuple[int, ...]
    """What the model was given, special tokens included."""
    positions: tuple[int, ...]
    """Indices of the tokens whose state is read; of several tokens, the mean of their states."""
    layer: int
    """The probe's best layer."""
    logit: float | tuple[float, ...]
    """``probe.decision_function`` of that state: a number, or one of each of more than two
    classes."""


@dataclass(frozen=True, eq=False)
class SavedProbe(ShownInNotebooks):
    """The probes of every layer for one concept, each fitted on all examples but a test set's.

    With ``probe.calibrate``, the units that were set aside are left out instead.

    A probe that reads several layers at once has one direction, of their states side by side
    (``reads``), and no other layer.

    On disk the tensors are called ``coef.12``, ``intercept.12`` (of layer 12); all else is JSON in
    the header.

    ``probe.predict_proba(states)`` scores hidden states [n, d] of the same model, site and
    position, at ``probe.best_layer`` unless another is named. No probability here is out-of-fold:
    how well the probe does on new examples is in ``scores``.
    """

    coef: Mapping[int, np.ndarray]
    """For each layer, directions in raw activation space: of class 1 or of the number, or of each
    of more than two classes. [1 or C, d] float64"""
    intercept: Mapping[int, np.ndarray]
    """For each layer, what is added to the states times the directions. [1 or C] float64"""
    classes: tuple[Any, ...]
    """The labels, sorted; empty for continuous labels."""
    facts: Mapping[str, Any]
    """Where the probe came from: model, dataset, site, position, kind, template, perturbation, and
    those of ``HOW_READ``. ``class_names`` has the names of labels, by the label as text;
    ``real_tokens`` tells that the positions first and last skip tokens that the tokenizer adds. A
    probe of an older version, or of arrays, lacks some."""
    scores: Mapping[str, list[float]]
    """Out-of-fold accuracy with its interval, AUROC, …: a number for each layer."""
    golden: tuple[GoldenExample, ...] = ()
    """Some of the probe's own texts, so that another engine's states can be compared; none of a
    probe of arrays or of an older version."""
    query: Mapping[int, np.ndarray] = field(default_factory=dict)
    """For each layer of a probe over tokens at ``tokens:attention``, the direction of a token's
    weight in raw activation space; empty for other probes. [d] float64"""
    operating: OperatingPoints | None = None
    """The thresholds of a monitor; None for a probe of more than two classes, of numbers or of an
    older version."""
    reads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """For a multi-layer probe, the layers it reads in rising order, by the number of the deepest,
    at which it stands. Its states are those of the layers side by side. Empty for other probes."""

    def __repr__(self) -> str:
        dataset, model = (elide(str(self.facts.get(of, "?")), 60) for of in ("dataset", "model"))
        if self.reads:
            return f"SavedProbe({dataset!r} in {model!r}: {self.layers_in_words()} at once)"
        best = f", the best {self.best_layer}" if self.scores else ""
        layers = f"{len(self.layers)} layers{best}"
        return f"SavedProbe({dataset!r} in {model!r}: {layers})"

    @property
    def layers(self) -> list[int]:
        """Return the layers in rising order."""
        return sorted(self.coef)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each class: the one that its dataset has for it, or the label."""
        names = self.facts.get("class_names", {})
        return tuple(str(names.get(str(label), label)) for label in self.classes)

    @property
    def best_layer(self) -> int:
        """Return the layer that saves most of an intercept's held-out loss.

        For a probe of an older version, it is the one with the best out-of-fold accuracy (or R²).
        """
        if "skill" in self.scores:
            return self.layers[int(np.argmax(self.scores["skill"]))]
        curve = self.scores["accuracy" if self.classes else "r2"]
        return self.layers[peak_index(curve, self.scores["log_loss"])]

    def layers_of(self, layer: int) -> tuple[int, ...]:
        """Return the layers whose states, side by side, are read by the probe at ``layer``."""
        return self.reads.get(layer, (layer,))

    def layers_in_words(self, layer: int | None = None) -> str:
        """Return which layers are read, by default at the best one: ``layers 4, 8 and 12``."""
        read = [str(one) for one in self.layers_of(self.layer_or_best(layer))]
        return f"layer{'s' * (len(read) > 1)} {listed(read)}"

    @property
    def hidden_size(self) -> int:
        """Return the number of features of a layer's states."""
        last = self.layers[-1]
        return int(self.coef[last].shape[1]) // len(self.layers_of(last))

    def layer_or_best(self, layer: int | None) -> int:
        """Return ``layer`` if the probe has it, and the best one for None.

        Raises
        ------
        UserError
            There is no such layer.
        """
        layer = self.best_layer if layer is None else layer
        if layer not in self.layers:
            if self.reads:
                raise UserError(f"the probe reads {self.layers_in_words()} at once, so it has no "
                                f"layer {layer} alone; leave the layer out")  # fmt: skip
            raise UserError(
                f"the probe has no layer {layer}: its layers are {self.layers[0]} to "
                f"{self.layers[-1]}"
            )
        return layer

    @property
    def digest(self) -> str:
        """Return a hash of the directions and intercepts, which tells this probe from others."""
        parts = (
            np.ascontiguousarray(by_layer[layer], dtype=float).tobytes()
            for layer in self.layers
            for by_layer in (self.coef, self.intercept, self.query)
            if layer in by_layer
        )
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def decision_function(self, states: np.ndarray, layer: int | None = None) -> np.ndarray:
        """Return logits, or predicted numbers. [n, d] -> [n], or [n, C] of C > 2 classes

        Raises
        ------
        UserError
            There is no such layer, or states are not [n, d] finite numbers.
        """
        layer = self.layer_or_best(layer)
        width = self.coef[layer].shape[1]
        try:
            states = np.asarray(states, dtype=float)
        except (TypeError, ValueError):
            raise UserError(f"states: not an array of numbers of shape (n, {width})") from None
        if states.ndim != 2 or states.shape[1] != width:
            raise UserError(f"states: shape {states.shape}, expected (n, {width})")
        if not np.isfinite(states).all():
            raise UserError("states: has values that are not finite")
        logits: np.ndarray = states @ self.coef[layer].T + self.intercept[layer]
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, states: np.ndarray, layer: int | None = None) -> np.ndarray:
        """Return probabilities of the classes. [n, d] -> [n, C]

        Raises
        ------
        UserError
            As ``decision_function``, or the labels are continuous.
        """
        if not self.classes:
            raise UserError("the probe predicts a number, which has no probabilities")
        return self.outputs_of(self.decision_function(states, layer))

    def outputs_of(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities of the classes [n, C], or predicted numbers [n, 1].

        Parameters
        ----------
        logits
            As ``decision_function`` returns them. [n], or [n, C] of C > 2 classes
        """
        if not self.classes:
            return logits[:, None]
        if logits.ndim == 1:
            logits = np.column_stack([np.zeros_like(logits), logits])
        probabilities: np.ndarray = softmax(logits, axis=1)
        return probabilities

    def outputs(self, states: np.ndarray, layer: int | None = None) -> np.ndarray:
        """Return probabilities of the classes, [n, d] -> [n, C], or predicted numbers, [n, 1].

        Raises
        ------
        UserError
            As ``decision_function``.
        """
        return self.outputs_of(self.decision_function(states, layer))

    def predict(self, states: np.ndarray, layer: int | None = None) -> np.ndarray:
        """Return the most probable class, or the predicted number. [n, d] -> [n]"""
        if not self.classes:
            return self.decision_function(states, layer)
        predicted: np.ndarray = np.asarray(self.classes)[self.outputs(states, layer).argmax(axis=1)]
        return predicted

    def threshold(
        self, fpr: float | None = None, *, value: float | None = None, layer: int | None = None
    ) -> Threshold:
        """Return the score above which a text is flagged, with what is guaranteed of it.

        Parameters
        ----------
        fpr
            The false positive rate to keep: 0.1, 0.05, 0.01 or 0.001.
        value
            In place of ``fpr``, the threshold itself, a probability of the last class.
        layer
            By default the best one.

        Raises
        ------
        UserError
            The probe is not of two classes; there is no such rate, layer or probability; there were
            too few negatives to tell; or not exactly one of ``fpr`` and ``value`` is given.
        """
        if len(self.classes) != 2:
            of = f"has {len(self.classes)} classes" if self.classes else "predicts a number"
            raise UserError(f"a threshold is for a probe of two classes, and this one {of}")
        if (fpr is None) == (value is None):
            raise UserError("give a false positive rate (fpr) or a threshold, one of the two")
        place = self.layers.index(self.layer_or_best(layer))
        if value is not None:
            return by_hand(value)
        assert fpr is not None
        if self.operating is None:
            raise UserError("the probe has no thresholds, since an older version made it; probe "
                            "again, or give a threshold")  # fmt: skip
        return self.operating.at(fpr, place)

    def attach(self, module: Any, **options: Any) -> Any:
        """Score every forward pass of a model as it runs: ``probe.attach(model).scores``.

        Returns a ``monitors.attached.AttachedProbe``; its ``remove`` ends the scoring.

        Parameters
        ----------
        module
            The probe's model of transformers, with or without a head.
        **options
            Keywords of ``AttachedProbe``: layer, every_token, on_scores, fpr, threshold, check.

        Raises
        ------
        UserError
            It is not the probe's model, or the probe was fitted elsewhere than at the last token.
        """
        # Imported by name, since running models is a higher layer: reading probes loads no torch.
        attached = import_module("llmprobe.monitors.attached")
        return attached.AttachedProbe(self, module, **options)

    def save(self, path: str | Path) -> Path:
        """Write one .safetensors file, whole or not at all; equal probes give equal bytes."""
        header = {
            **UNSIGNED,
            "format": FORMAT,
            "classes": json.dumps(self.classes, default=str),
            "facts": json.dumps(dict(self.facts)),
            "scores": json.dumps(dict(self.scores)),
            "golden": json.dumps([vars(example) for example in self.golden]),
        }
        if self.operating is not None:
            header["operating"] = json.dumps(self.operating.as_json())
        if self.reads:
            header["reads"] = json.dumps({str(layer): read for layer, read in self.reads.items()})
        tensors = {
            f"{name}.{layer}": np.ascontiguousarray(array, dtype=float)
            for name in ("coef", "intercept", "query")
            for layer, array in sorted(getattr(self, name).items())
        }
        with whole_file(Path(path)) as partial:
            partial.write_bytes(signed(_with_sorted_header(save(tensors, header))))
        return Path(path)


def load_probe(path: str | Path) -> SavedProbe:
    """Read a probe that a run left under ``probes/``, or that ``SavedProbe.save`` wrote.

    Raises
    ------
    UserError
        There is no such file, or it is a folder or not a saved probe.
    """
    path = Path(path)
    if path.is_dir():
        patterns = ("*.safetensors", "probes/*/*.safetensors")
        inside = sorted(str(file) for pattern in patterns for file in path.glob(pattern))
        such = f", such as {inside[0]}" if inside else ""
        raise UserError(f"{path}: is a folder; a probe is one .safetensors file{such}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    with foreign_errors(f"{path}: not a saved probe, or damaged"):
        content = read_back(path)
        arrays = load(content)
        header = _header(content).get("__metadata__") or {}
        if header.get("format") != FORMAT:
            raise UserError(f"{path}: a safetensors file, but not one of a saved probe")
        tensors: dict[str, dict[int, np.ndarray]] = {
            "coef": {}, "intercept": {}, "query": {},
        }  # fmt: skip
        for key, array in arrays.items():
            name, _, layer = key.partition(".")
            tensors[name][int(layer)] = array
        probe = SavedProbe(
            **tensors,
            classes=tuple(json.loads(header["classes"])),
            facts=dict(json.loads(header["facts"])),
            scores=dict(json.loads(header["scores"])),
            golden=tuple(map(_golden_example, json.loads(header.get("golden", "[]")))),
            operating=_operating(header, len(tensors["coef"])),
            reads={
                int(layer): tuple(read)
                for layer, read in json.loads(header.get("reads", "{}")).items()
            },
        )
        _require_whole(probe)
        return probe


def _header(content: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file: 8 bytes with its length, then JSON."""
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def _with_sorted_header(content: bytes) -> bytes:
    """Return a safetensors file with its header in order: the library's differs between runs."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(_header(content), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def _golden_example(entry: dict[str, Any]) -> GoldenExample:
    lists = {name: tuple(entry[name]) for name in ("token_ids", "positions")}
    logit = entry["logit"]
    logit = tuple(logit) if isinstance(logit, list) else logit
    return GoldenExample(**lists, layer=entry["layer"], logit=logit)


def _operating(header: Mapping[str, str], layers: int) -> OperatingPoints | None:
    if "operating" not in header:
        return None
    return OperatingPoints.from_json(json.loads(header["operating"]), layers)


def _require_whole(probe: SavedProbe) -> None:
    """Raise ``ValueError`` or another error where parts of a probe do not fit each other."""
    classes = probe.classes
    if not all(isinstance(label, str | int | float) and label == label for label in classes):
        raise ValueError(f"its classes {list(classes)!r:.100} are not words or numbers")
    if not len({*classes}) == len({*map(str, classes)}) == len(classes) != 1:
        raise ValueError(f"its classes {list(classes)!r:.100} are not two or more different ones")
    outputs = len(classes) if len(classes) > 2 else 1
    for layer, coef in probe.coef.items():
        if coef.ndim != 2 or len(coef) != outputs or probe.intercept[layer].shape != (outputs,):
            raise ValueError(f"layer {layer} does not fit {len(classes)} classes")
        if not np.isfinite(coef).all() or not np.isfinite(probe.intercept[layer]).all():
            raise ValueError(f"layer {layer} has numbers that are not finite")
    if (probe.facts.get("position") == "tokens:attention") != bool(probe.query) or any(
        query.shape != probe.coef[layer].shape[1:] or not np.isfinite(query).all()
        for layer, query in probe.query.items()
    ):
        raise ValueError("its queries do not fit its layers")
    if probe.operating is not None and len(classes) != 2:
        raise ValueError(f"it has thresholds of {len(classes)} classes")
    for name, curve in probe.scores.items():
        if not np.shape(np.asarray(curve, dtype=float)) == (len(probe.coef),):
            raise ValueError(f"its scores {name!r:.40} are not one for each layer")
    for deepest, together in probe.reads.items():
        are_layers = all(type(layer) is int and 0 <= layer < 2**31 for layer in together)
        if not are_layers or len(together) < 2 or list(together) != sorted(set(together)):
            raise ValueError("the layers that it reads at once are not two or more in rising order")
        if list(probe.coef) != [deepest] or together[-1] != deepest:
            raise ValueError("the layers that it reads at once are not those that it has")
        if "model_id" in probe.facts and probe.coef[deepest].shape[1] % len(together):
            raise ValueError("its width is not that of the layers that it reads")
    # Layers of any network can differ in width, those of a language model's stream cannot.
    if "model_id" in probe.facts and len({coef.shape[1] for coef in probe.coef.values()}) > 1:
        raise ValueError("its layers differ in width")
    curve = probe.scores["accuracy" if classes else "r2"]
    if not np.isfinite(curve).all() or len(probe.intercept) != len(probe.coef):
        raise ValueError("its layers and scores do not fit each other")
    for example in probe.golden:
        numbers = (*example.token_ids, *example.positions, example.layer)
        if not all(type(number) is int and 0 <= number < 2**31 for number in numbers):
            raise ValueError("a golden example has something else than token ids and positions")
        n = len(example.token_ids)
        if not example.positions or max(example.positions) >= n or example.layer not in probe.coef:
            raise ValueError("a golden example has positions or a layer that are not there")
        logits = np.asarray(example.logit, dtype=float)
        if logits.shape != ((outputs,) if outputs > 1 else ()) or not np.isfinite(logits).all():
            raise ValueError("a golden example has logits that do not fit this probe")
    for fact, value in probe.facts.items():
        kind = _KINDS.get(fact, str)
        if fact in (*HOW_READ, *READ_WITH, *_WORDS) and not isinstance(value, kind):
            raise ValueError(f"{fact} is {value!r:.40}, which is no {kind.__name__}")
