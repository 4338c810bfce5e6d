"""Sentence embeddings, a rival of hidden states: what a small encoder makes of the same texts."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.extract import Estimate, Extractor
from llmprobe.extraction.tokens import TokenisedTexts, model_window
from llmprobe.ground.errors import UserError, foreign_errors, out_of_memory
from llmprobe.models.loading import LoadedModel

log = logging.getLogger(__name__)

_POSITIONS = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""Where each pooling of sentence-transformers reads a text, special tokens included."""


def encoder_config(name: str) -> ModelConfig:
    """Return how a text encoder is loaded: in float32, as sentence-transformers does."""
    return ModelConfig(id=name, dtype="float32", convert=True)


class TextEncoder(Extractor):
    """Extraction of one embedding of each text, as sentence-transformers makes them.

    An embedding is the mean of the model's output, after its final norm, over all tokens, special
    ones included, unless the folder's ``modules.json`` and ``1_Pooling/config.json`` say otherwise.
    Of a text longer than the encoder's window only the beginning is read. For labelled words it
    reads the words, for chats the text that joins their turns.

    Raises
    ------
    UserError
        The encoder is not found, or its files ask for a way of making embeddings that is not known.
    """

    def __init__(self, name: str) -> None:
        super().__init__(encoder_config(name))
        folder, where = self.source.folder, f"text encoder {name!r}"
        modules = _read(folder / "modules.json", where) or []
        kinds = {str(module["type"]).rsplit(".", 1)[-1]: module["path"] for module in modules}
        if others := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"}):
            raise UserError(f"{where}: modules.json has {others[0]!r}; known are a Transformer, "
                            "its Pooling and Normalize")  # fmt: skip
        pooling = _read(folder / kinds.get("Pooling", "1_Pooling") / "config.json", where) or {}
        self._normalises = "Normalize" in kinds
        self._longest = (_read(folder / "sentence_bert_config.json", where) or {}).get(
            "max_seq_length"
        )
        position = _POSITIONS[_pooling(pooling, where)]
        self.config = ExtractConfig(position=position, special="include")

    @property
    def model(self) -> LoadedModel:
        """The model in memory, whose last layer is its output; loads it on first use."""
        model = super().model
        return replace(model, blocks=[*model.blocks[:-1], model.module])

    def release(self) -> None:
        """Forget the model in memory."""
        self._loaded.model = None

    def key(self, dataset: ConceptDataset) -> dict[str, Any]:
        """Return all that the embeddings of ``dataset`` depend on."""
        return super().key(_surface(dataset)) | {"sentence_embedding": True}

    def layers(self, n_blocks: int) -> list[int]:
        """Return the last layer, the only one."""
        return [n_blocks]

    def estimate(self, dataset: ConceptDataset) -> Estimate:
        """Estimate what extraction will cost, from the tokenizer and the model's configuration."""
        return super().estimate(_surface(dataset))

    def find(self, dataset: ConceptDataset, *, embeddings: bool = False) -> Activations | None:
        """Return the embeddings if they are on this disk, complete and undamaged."""
        return super().find(_surface(dataset), embeddings=embeddings)

    def extract(
        self, dataset: ConceptDataset, *, cache: bool = True, progress: bool = True
    ) -> Activations:
        """Return the embeddings of ``dataset``, found on disk or made now."""
        return super().extract(_surface(dataset), cache=cache, progress=progress)

    def normalised(self, activations: Activations) -> np.ndarray:
        """Return the embeddings, scaled to norm 1 if the encoder normalises them. [n, d]"""
        (layer,) = activations.layers
        states = activations.layer(layer)
        if self._normalises:
            norms = np.linalg.norm(states, axis=1, keepdims=True)
            states = states / np.maximum(norms, 1e-12)
        return states

    def tokens(self, dataset: ConceptDataset, tokenizer: Any, module: Any) -> TokenisedTexts:
        """Return the texts as the encoder reads them, and the tokens that are pooled."""
        where, texts = self._where(dataset), dataset.surface
        windows = [n for n in (self._longest, model_window(module)) if n]
        window = min(windows) if windows else None
        with foreign_errors(f"{where}: the encoder's tokenizer fails on its texts", out_of_memory):
            ids: list[list[int]] = tokenizer(
                texts, truncation=window is not None, max_length=window, padding=False,
                verbose=False,
            )["input_ids"]  # fmt: skip
        lengths = list(map(len, ids))
        if 0 in lengths:
            row = lengths.index(0)
            raise UserError(f"{where}: example {row} gives no tokens: {texts[row]!r:.200}")
        if full := lengths.count(window or 0):
            log.warning("%s: %d of %d texts fill the encoder's window of %d tokens; of longer ones "
                        "it reads the first", where, full, len(ids), window)  # fmt: skip
        ends = {"first": slice(1), "last": slice(-1, None), "mean": slice(None)}
        pooled = ends[self.config.positions[0]]
        return TokenisedTexts(ids, [[tuple(range(n))[pooled]] for n in lengths])


def _surface(dataset: ConceptDataset) -> ConceptDataset:
    """Return a dataset of the texts that rivals read."""
    return ConceptDataset(dataset.stem or dataset.name, dataset.surface, dataset.labels)


def _read(path: Path, where: str) -> Any:
    """Return the content of a JSON file, None without the file."""
    if not path.is_file():
        return None
    with foreign_errors(f"{where}: {path.name} cannot be read"):
        return json.loads(path.read_text(encoding="utf-8"))


def _pooling(config: dict[str, Any], where: str) -> str:
    """Return how tokens are pooled, by a folder's ``1_Pooling/config.json``; without it ``mean``.

    Raises
    ------
    UserError
        The way is not known, or there are several.
    """
    kinds = [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if "pooling_mode" in config:
        kinds.append(str(config["pooling_mode"]))
    kinds = kinds or ["mean"]
    if len(kinds) > 1 or kinds[0] not in _POSITIONS:
        raise UserError(
            f"{where}: pools tokens by {' and '.join(kinds)}; known are {', '.join(_POSITIONS)}"
        )
    return kinds[0]
