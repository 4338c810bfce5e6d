"""Texts → hidden states of every layer, on disk, once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from filelock import FileLock
from torch import Tensor

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import ExtractConfig, ModelConfig
from llmprobe.errors import UserError
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.capture import capture
from llmprobe.extraction.plan import Plan, default_batch_tokens, make_plan
from llmprobe.extraction.store import Store
from llmprobe.extraction.tokens import TokenisedTexts, model_window, tokenise
from llmprobe.files import cache_folder, require_space
from llmprobe.models.loading import LoadedModel, load_model, resolve_device, resolve_dtype
from llmprobe.models.source import ModelSource, locate
from llmprobe.progress import Progress

log = logging.getLogger(__name__)

STORE_VERSION = 1
"""Raise when the same key would give other states, so that older extractions are not used."""

WAYS = {
    "padded": {"masked": False, "padding": True},
    "padded with a mask": {"masked": True, "padding": True},
    "one length a batch": {"masked": False, "padding": False},
}
"""How texts can share a forward pass, fastest first; the self-check takes the first right one."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Relative difference to a text run alone that rounding explains."""


class Extractor:
    """Extraction from one model, which is located and loaded only when something needs it."""

    def __init__(self, model: ModelConfig, config: ExtractConfig | None = None) -> None:
        self.config = config or ExtractConfig()
        self.model_config = model
        self._source: ModelSource | None = None
        self._model: LoadedModel | None = None

    @property
    def source(self) -> ModelSource:
        """Where the model's files are; downloads them on first use."""
        self._source = self._source or locate(self.model_config)
        return self._source

    @property
    def model(self) -> LoadedModel:
        """The model in memory; loads it on first use."""
        self._model = self._model or load_model(self.model_config, self.source)
        return self._model

    def folder(self, dataset: ConceptDataset) -> Path:
        """Where the activations of ``dataset`` are or will be: named by all that they depend on."""
        model, config = self.model_config, self.config
        dtype = resolve_dtype(model.dtype, resolve_device(model.device))
        key: dict[str, Any] = {
            "version": STORE_VERSION,
            "model": self.source.identity,
            "weights": model.weights,
            "dtype": str(dtype),
            "texts": hashlib.sha256(json.dumps(dataset.texts).encode()).hexdigest(),
            "site": config.site,
            "position": config.position,
            "chat_template": config.chat_template,
            "too_long": config.too_long,
        }
        if model.weights == "random":
            # What a seed gives depends on how the library initialises.
            key |= {"seed": model.seed, "init": [torch.__version__, transformers.__version__]}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "activations" / f"{model.name}-{dataset.name}-{digest[:16]}"

    def find(self, dataset: ConceptDataset) -> Activations | None:
        """The activations if they are on this disk, complete and undamaged."""
        store = Store(self.folder(dataset))
        facts = store.manifest()
        return None if facts is None else Activations(dataset, facts, store)

    def extract(
        self, dataset: ConceptDataset, *, cache: bool = True, progress: bool = True
    ) -> Activations:
        """The activations of ``dataset``, found on disk or made now.

        An interrupted extraction goes on after its last whole shard. Of two processes that want
        the same one, one works and the other waits.

        Raises
        ------
        UserError
            A text is longer than the model's window; a state is not finite.
        OSError
            The disk is full.
        """
        if not cache:
            scratch = TemporaryDirectory(prefix="llmprobe-")
            store = Store(Path(scratch.name))
            return Activations(dataset, self._fill(store, dataset, progress), store, scratch)
        folder = self.folder(dataset)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            found = self.find(dataset)
            if found is not None:
                return found
            store = Store(folder)
            return Activations(dataset, self._fill(store, dataset, progress), store)

    def tokens(self, dataset: ConceptDataset, tokenizer: Any, config: Any) -> TokenisedTexts:
        """The dataset's texts as this model reads them."""
        return tokenise(
            tokenizer,
            dataset.texts,
            window=model_window(config),
            chat_template=self.config.chat_template,
            too_long=self.config.too_long,
            where=f"{self.model_config.name} on {dataset.name}",
        )

    def _fill(self, store: Store, dataset: ConceptDataset, progress: bool) -> dict[str, Any]:
        """Make the shards that are missing, then the manifest."""
        model = self.model
        began = time.monotonic()
        texts = self.tokens(dataset, model.tokenizer, model.module.config)
        if self.config.position == "mean":
            _require_plain_tokens(texts, dataset)
        _require_known_tokens(texts, dataset, model)
        states_of = _checked_way(model, texts, self.config.position)
        row_bytes = (len(model.blocks) + 1) * model.hidden_size * model.dtype.itemsize
        budget = self.config.batch_tokens
        plan = make_plan(
            texts.ids,
            default_batch_tokens(model.device) if budget == "auto" else budget,
            row_bytes,
            padding=states_of.padding,
        )
        missing = [
            index
            for index in range(len(plan.shards))
            if not store.has_shard(index, plan.fingerprint)
        ]
        rows = sum(len(batch) for index in missing for batch in plan.shards[index])
        require_space(store.folder, rows * row_bytes + 2**20, f"extracting {dataset.name}")
        label = f"extracting {dataset.name} with {model.name}"
        with Progress(label, rows, shown=progress) as bar:
            for index in missing:
                states = _shard(plan, index, states_of, dataset, bar)
                store.write_shard(index, plan.fingerprint, states)
        facts = {
            "model": model.name,
            "parameters": model.parameters,
            "layers": len(model.blocks),
            "hidden_size": model.hidden_size,
            "site": self.config.site,
            "position": self.config.position,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "way": states_of.name,
            "check": states_of.difference,
            "tokens": texts.n_tokens,
            "unique_tokens": texts.n_unique_tokens,
            "seconds": round(time.monotonic() - began, 3),
        }
        store.finish(len(plan.shards), plan.row_of, facts)
        return store.manifest() or {}


class _Way:
    """One of ``WAYS`` on one model, with what the self-check measured."""

    def __init__(self, name: str, model: LoadedModel, position: str, special: frozenset[int]):
        self.name, self.difference = name, math.nan
        self.padding = WAYS[name]["padding"]
        self._run: Callable[[Any], Tensor] = lambda batch: capture(
            model, batch, position, special, masked=WAYS[name]["masked"]
        )

    def __call__(self, batch: list[list[int]]) -> Tensor:
        return self._run(batch)


def _checked_way(model: LoadedModel, texts: TokenisedTexts, position: str) -> _Way:
    """The fastest way that agrees with running each text alone, tried on texts of this dataset."""
    by_length = sorted(texts.ids, key=len)
    sample = [by_length[0], by_length[len(by_length) // 2], by_length[-1]]
    alone_way = _Way("one length a batch", model, position, texts.special)
    alone = torch.cat([alone_way([tokens]) for tokens in sample]).float()
    for name in WAYS:
        way = _Way(name, model, position, texts.special)
        if not way.padding:
            break
        if name == "padded" and not model.causal:
            continue
        difference = (way(sample).float() - alone).norm(dim=2) / alone.norm(dim=2)
        way.difference = float(difference.max())
        # A comparison with NaN is false, so states that are not finite pass on to their own error.
        if not way.difference > TOLERANCE[model.dtype]:
            return way
        log.warning(
            "%s: batches %s differ by %.1e from a text run alone; trying another way",
            model.name, name, way.difference,
        )  # fmt: skip
    return alone_way


def _shard(
    plan: Plan, index: int, states_of: _Way, dataset: ConceptDataset, bar: Progress
) -> Tensor:
    """The states of one shard. -> [rows, layers, d] on the CPU"""
    parts = []
    for batch in plan.shards[index]:
        states = states_of([plan.unique[row] for row in batch]).cpu()
        bad = ~torch.isfinite(states).all(dim=2)
        if bad.any():
            row, layer = (int(i) for i in bad.nonzero()[0])
            example = plan.row_of.index(batch.start + row)
            raise UserError(
                f"{dataset.name}: the state of example {example} at layer {layer} is not finite in "
                f"{str(states.dtype).removeprefix('torch.')}; set the model's dtype to float32"
            )
        parts.append(states)
        bar.advance(len(batch))
    return torch.cat(parts)


def _require_plain_tokens(texts: TokenisedTexts, dataset: ConceptDataset) -> None:
    for row, tokens in enumerate(texts.ids):
        if texts.special.issuperset(tokens):
            raise UserError(f"{dataset.name}: example {row} has only special tokens, so no mean")


def _require_known_tokens(
    texts: TokenisedTexts, dataset: ConceptDataset, model: LoadedModel
) -> None:
    module: Any = model.module
    known = module.get_input_embeddings().num_embeddings
    for row, tokens in enumerate(texts.ids):
        if max(tokens) >= known:
            raise UserError(
                f"{dataset.name}: example {row} has token {max(tokens)}, beyond the "
                f"{known} of {model.name}: its tokenizer is not its own"
            )
