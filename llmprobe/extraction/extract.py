"""Extraction: from texts to hidden states of every layer, computed once and kept on disk."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import transformers

from llmprobe.config.schema import ExtractConfig, ModelConfig, file_name
from llmprobe.config.sites import SITES
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.spans import Turn
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.chats import rendered
from llmprobe.extraction.estimate import describe_cost, describe_perplexity, seconds_of
from llmprobe.extraction.executor import ShardExecutor
from llmprobe.extraction.plan import ExtractionPlan, ModelShape, machine_of
from llmprobe.extraction.prefix_tree import tree_can_run
from llmprobe.extraction.processes import Apart, World
from llmprobe.extraction.runner import Planner, verified_plan
from llmprobe.extraction.store import Store
from llmprobe.extraction.tokens import (
    TokenisedTexts,
    distinct_states,
    model_window,
    require_usable_tokens,
    tokenise,
)
from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.ground.files import cache_folder, digest, existing, require_space
from llmprobe.ground.lease import lease
from llmprobe.ground.progress import Progress
from llmprobe.ground.uses import use
from llmprobe.models.devices import dtype_name, resolve_device, resolve_dtype
from llmprobe.models.in_memory import ModelInMemory
from llmprobe.models.loading import (
    Architecture,
    LoadedModel,
    active_weights,
    load_architecture,
    load_model,
    load_tokenizer,
)
from llmprobe.models.packaged import PACKAGED
from llmprobe.models.position_wise import find_position_wise
from llmprobe.models.source import ModelSource, is_local, locate

log = logging.getLogger(__name__)

STORE_VERSION = 7
"""Version of the content; to be raised when the same key would give other states or facts, so that
older extractions are not used."""


class Estimate(NamedTuple):
    """What an extraction would cost."""

    line: str
    """In words: tokens, way, disk and time."""
    seconds: float
    """Seconds on this machine."""
    nominal_seconds: float
    """Seconds on the nominal machine of ``plan.py``, the same on all machines of one kind."""
    shards: int
    """Number of shards, into which the work can be divided."""


FEW_UNREAD = 300
"""Unread tokens, for each block of the model, up to which finding the parts that the last block may
skip takes longer than running them."""


class Extractor:
    """Extraction from one model, which is located and loaded only when something needs it.

    A model that is in memory already is not put into eval mode here: the caller enters its
    ``as_it_was``.

    Parameters
    ----------
    load
        Function that loads a model that is not in memory, in place of ``load_model``.
    """

    def __init__(
        self,
        model: ModelConfig | ModelInMemory,
        config: ExtractConfig | None = None,
        load: Callable[[ModelConfig, ModelSource], LoadedModel] | None = None,
    ) -> None:
        self.config, self._load = config or ExtractConfig(), load
        self.model_config = model if isinstance(model, ModelConfig) else model.config
        self._loaded = _Loaded(None if isinstance(model, ModelConfig) else model)
        self._position_wise: dict[int, list[Any]] = {}
        self.right_way: dict[str, str] = {}
        """The way of running texts that the self-check accepted, by the way that is tried first."""

    @property
    def token_embeddings(self) -> Extractor:
        """The extractor of the mean token embedding of each text, as its only layer.

        It shares the loaded model and reads layer 0 at ``position: mean``, so no block runs.
        """
        other = copy(self)
        update = {"site": "residual", "position": "mean", "special": "skip", "layers": (0,)}
        other.config = self.config.model_copy(update=update)
        return other

    @property
    def source(self) -> ModelSource:
        """Where the model's files are; downloads them on first use."""
        if self._loaded.source is None:
            own = self._loaded.in_memory
            self._loaded.source = own.source() if own else locate(self.model_config)
        return self._loaded.source

    @property
    def model(self) -> LoadedModel:
        """The model in memory; loads it on first use."""
        if self._loaded.model is None:
            own, load = self._loaded.in_memory, self._load or load_model
            self._loaded.model = own.load() if own else load(self.model_config, self.source)
        return self._loaded.model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, loaded without the model itself."""
        known = self._loaded
        if known.tokenizer is None:
            loaded = known.in_memory or known.model
            known.tokenizer = (
                loaded.tokenizer if loaded else load_tokenizer(self.source, self.model_config)
            )
        return known.tokenizer

    @property
    def architecture(self) -> Architecture:
        """The model's shape, known without its weights."""
        if self._loaded.architecture is None:
            self._loaded.architecture = load_architecture(self.model_config, self.source)
        return self._loaded.architecture

    @property
    def origin(self) -> dict[str, Any]:
        """What it takes to read other texts in the same way, except the site and the position."""
        model, config = self.model_config, self.config
        source = self._loaded.source
        return {
            "model_id": _from_anywhere(model.id),
            "revision": source.identity if source else "",
            **_origin_beside(model, source),
            **({"in_memory": True} if self._loaded.in_memory else {}),
            "weights": model.weights,
            "seed": model.seed,
            "quantization": model.quantization,
            "trust_remote_code": model.trust_remote_code,
            "chat_template": config.chat_template,
            "too_long": config.too_long,
            **({"special": config.special} if config.special != "skip" else {}),
            **({"occurrence": config.occurrence} if config.occurrence else {}),
        }

    def reads_as(self, other: Extractor) -> bool:
        """Whether another extractor reads texts with the same model in the same way."""
        return (self.model_config, self.config) == (other.model_config, other.config)

    @property
    def is_local(self) -> bool:
        """Whether the model's files are on this disk."""
        return is_local(self.model_config)

    def key(self, dataset: ConceptDataset) -> dict[str, Any]:
        """Return all that the states of ``dataset`` depend on."""
        model, config = self.model_config, self.config
        dtype = resolve_dtype(model.dtype, resolve_device(model.device))
        texts, turns = dataset.texts, self._turns(dataset)
        if turns is not None:
            # What the template makes of a text can depend on more than the text, such as the date.
            chats = rendered(self.tokenizer, texts, turns, dataset.chat, self._where(dataset))
            texts = [chat.text for chat in chats]
        key: dict[str, Any] = {
            "version": STORE_VERSION,
            "model": self.source.identity,
            "trust_remote_code": model.trust_remote_code,
            "weights": model.weights,
            "quantization": model.quantization,
            "dtype": str(dtype),
            "texts": digest([texts, self._ranges(dataset)]),
            "site": config.site,
            "positions": config.positions,
            "special": config.special,
            "chat_template": turns is not None,
            "too_long": config.too_long,
        }
        # The identities of a tokenizer and an adapter from elsewhere.
        key |= self.source.beside
        if config.layers is not None:
            key["layers"] = sorted(config.layers)
        if model.weights == "random":
            # What a seed gives depends on how the library initialises.
            key |= {"seed": model.seed, "init": [torch.__version__, transformers.__version__]}
        return key

    def folder(self, dataset: ConceptDataset) -> Path:
        """Return the folder, named by the key, in which the activations are or will be."""
        ending = digest(self.key(dataset))[:16]
        name = f"{self.model_config.name}-{file_name(dataset.stem or dataset.name)}-{ending}"
        return cache_folder() / "activations" / name

    def find(self, dataset: ConceptDataset, *, embeddings: bool = False) -> Activations | None:
        """Return the activations if they are on this disk, complete and undamaged.

        With ``embeddings``, the mean token embeddings must be there too, and are returned with
        them.
        """
        store = Store(self.folder(dataset))
        if store.folder.is_dir():
            use(store.folder)
        facts = store.manifest()
        beside = self.token_embeddings.find(dataset) if embeddings else None
        if facts is None or (embeddings and beside is None):
            return None
        return replace(self._activations(dataset, facts, store), embeddings=beside)

    def extract_with_embeddings(
        self, dataset: ConceptDataset, *, cache: bool = True, progress: bool = True
    ) -> Activations:
        """Return the activations of ``dataset`` together with its mean token embeddings.

        If a text has only special tokens, there are no embeddings, and a warning says so.
        """
        activations = self.extract(dataset, cache=cache, progress=progress)
        try:
            beside = self.token_embeddings.extract(dataset, cache=cache, progress=False)
        except UserError as error:
            log.warning("no token embeddings to compare with: %s", error)
            beside = None
        return replace(activations, embeddings=beside)

    def extract(
        self, dataset: ConceptDataset, *, cache: bool = True, progress: bool = True
    ) -> Activations:
        """Return the activations of ``dataset``, found on disk or computed now.

        An interrupted extraction keeps its whole shards and makes only the others. If two processes
        want the same extraction, one works and the other waits; processes of one launch share the
        work.

        Raises
        ------
        UserError
            A text is longer than the model's window; a state is not finite; the model has no such
            site; one text alone does not fit into memory.
        OSError
            The disk is full.
        """
        if not cache:
            scratch = TemporaryDirectory(prefix="llmprobe-")
            store = Store(Path(scratch.name))
            facts = self._fill(store, dataset, {}, World(alone=True), progress)
            return self._activations(dataset, facts, store, scratch)
        world, store = World(), Store(self.folder(dataset))
        use(store.folder)
        facts = world.agree(store.manifest() if world.leader else None)
        if facts is None:
            store.folder.mkdir(parents=True, exist_ok=True)
            with lease(store.folder, wait=True) as waited:
                # The process that held the lease may have made it.
                facts = world.agree(store.manifest() if waited else None)
                facts = facts or self._fill(store, dataset, self.key(dataset), world, progress)
        return self._activations(dataset, facts, store)

    def extract_share(self, dataset: ConceptDataset, share: int, shares: int) -> None:
        """Make one share of an extraction that is divided among processes that cannot communicate.

        The process whose self-check ends first decides how texts are run, and a process that finds
        all shards there writes the manifest. This takes no lease of the folder: the process that
        waits for the shares holds it.
        """
        store = Store(self.folder(dataset))
        use(store.folder)
        if store.manifest() is None:
            store.folder.mkdir(parents=True, exist_ok=True)
            world = Apart(store.folder, share, shares)
            self._fill(store, dataset, self.key(dataset), world, progress=True)

    def tokens(self, dataset: ConceptDataset, tokenizer: Any, module: Any) -> TokenisedTexts:
        """Return the token ids of the dataset's texts, and their places that are read."""
        every_token = "tokens" in self.config.positions
        return self.tokens_at(self._one_place, dataset, tokenizer, module, every_token=every_token)

    def tokens_at(
        self,
        positions: Sequence[str],
        dataset: ConceptDataset,
        tokenizer: Any,
        module: Any,
        *,
        every_token: bool = False,
    ) -> TokenisedTexts:
        """Return the token ids of the dataset's texts, and their places at some positions.

        Each position is ``last`` or one of the config's.
        """
        return tokenise(
            tokenizer,
            dataset.texts,
            window=model_window(module),
            positions=positions,
            every_token=every_token,
            ranges=self._ranges(dataset),
            turns=self._turns(dataset),
            chat=dataset.chat,
            special=self.config.special,
            too_long=self.config.too_long,
            where=self._where(dataset),
        )

    def estimate(self, dataset: ConceptDataset) -> Estimate:
        """Estimate what extraction will cost, from the tokenizer and the model's configuration."""
        model = self.architecture
        texts = self.tokens(dataset, self.tokenizer, model.module)
        self._distinct_states(dataset, texts, model.causal, self.tokenizer)
        planner = self.planner(texts, model)
        plan = next(planner.plans())
        return Estimate(
            describe_cost(planner, plan, model), seconds_of(planner, plan, model),
            plan.cost.seconds, len(plan.shards),
        )  # fmt: skip

    def estimate_perplexity(self, dataset: ConceptDataset) -> str:
        """Return one line that says what computing the perplexity of the texts will cost."""
        model = self.architecture
        return describe_perplexity(self.tokens(dataset, self.tokenizer, model.module), model)

    def planner(self, texts: TokenisedTexts, model: LoadedModel | Architecture) -> Planner:
        """Return a planner for these texts, within the config's budget of tokens.

        Raises
        ------
        UserError
            A size in the model's config.json cannot be used.
        """
        module: Any = model.module
        layers = self.layers(model.n_blocks)
        with foreign_errors(f"model {self.model_config.id!r}: its config.json cannot be used"):
            shape = ModelShape.of(
                module.config, active_weights(module), model.n_blocks, len(layers), model.dtype
            )
            # Where no block runs, there are no keys and values to share.
            tree = layers[-1] > 0 and tree_can_run(module)
        budget = None if self.config.batch_tokens == "auto" else self.config.batch_tokens
        machine = machine_of(model.device)
        return Planner(texts, shape, machine, budget, model.causal, tree)

    def capture(self, layers: Sequence[int] | None, unread: float = math.inf) -> Capture:
        """Return a capture of some layers that skips what the last block need not run.

        Parameters
        ----------
        unread
            Number of tokens that are run but not read. If they are few, finding what may be skipped
            takes longer than running it, so nothing is skipped; nor is it in a model in memory,
            which others may have hooked, or in one spread over devices.
        """
        model, known = self.model, self._position_wise
        capture = Capture(model, self.config.site, layers)
        last = capture.layers[-1]
        if last and unread > FEW_UNREAD * model.n_blocks and not (
            self._loaded.in_memory or model.spread
        ):  # fmt: skip
            if last not in known:
                known[last] = find_position_wise(model, last)
            capture.position_wise = known[last]
        return capture

    def layers(self, n_blocks: int) -> list[int]:
        """Return the layers that are read of a model with ``n_blocks`` blocks."""
        known = SITES[self.config.site].layers(n_blocks)
        if self.config.layers is None and "tokens" in self.config.positions:
            # With the states of every token, only four layers, evenly spaced.
            return sorted({-(-n_blocks * part // 4) for part in range(1, 5)})
        return list(known if self.config.layers is None else self.config.layers)

    def _distinct_states(
        self, dataset: ConceptDataset, texts: TokenisedTexts, causal: bool, tokenizer: Any
    ) -> list[int]:
        """Count the distinct states at each position; refuse a position with one for all texts."""
        positions = self.config.positions
        if len(set(dataset.texts)) == 1 and dataset.words is None:
            return [1] * len(positions)
        order = [*self._one_place, *(["tokens"] * ("tokens" in positions))]
        counts = distinct_states(texts, order, causal, tokenizer, self._where(dataset))
        return [counts[order.index(position)] for position in positions]

    def _activations(
        self, dataset: ConceptDataset, facts: dict[str, Any], store: Store, scratch: Any = None
    ) -> Activations:
        """Return the activations in a store; warn of positions with few distinct states."""
        texts = len(set(zip(dataset.texts, dataset.words or dataset.texts, strict=True)))
        for position, states in zip(facts["positions"], facts["distinct_states"], strict=True):
            if states * 2 < texts:
                log.warning(
                    "%s: position %s reads only %d different states of %d different texts, "
                    "at every layer; a probe cannot tell apart those that share one",
                    self._where(dataset), position, states, texts,
                )  # fmt: skip
        how = self.origin | {"chat_template": self._turns(dataset) is not None,
                             "blocks": facts["layers"]}  # fmt: skip
        if dataset.turns is not None:
            how["chat"] = json.dumps(dataset.chat, sort_keys=True)
        if dataset.words is not None:
            how["of_words"] = True
        activations = Activations(dataset, facts | how, store, scratch)
        return activations if len(activations.positions) > 1 else activations.at()

    @property
    def _one_place(self) -> list[str]:
        """The positions that are one place of each text; they come before the single tokens."""
        return [position for position in self.config.positions if position != "tokens"]

    def _of_positions(
        self, texts: TokenisedTexts, plan: ExtractionPlan, causal: bool
    ) -> dict[str, list[Any]]:
        """Return the facts that have one entry for each position."""
        one_place, every = self._one_place, plan.row_of
        facts: dict[str, list[Any]] = {"row_of": [], "golden": [], "n_read": []}
        for position in self.config.positions:
            if position == "tokens":
                own = [rows[len(one_place) :] for rows in every]
                facts["row_of"].append([row for rows in own for row in rows])
                columns = slice(len(one_place), None)
                facts["n_read"].append([len(rows) for rows in own])
            else:
                column = one_place.index(position)
                facts["row_of"].append([rows[column] for rows in every])
                columns = slice(column, column + 1)
                facts["n_read"].append(None)
            facts["golden"].append(texts.golden(columns, cut=causal))
        return facts

    def _where(self, dataset: ConceptDataset) -> str:
        return f"{self.model_config.name} on {dataset.stem or dataset.name}"

    def _turns(self, dataset: ConceptDataset) -> Sequence[Sequence[Turn]] | None:
        """Return the turns of chats; if the config makes chats of texts, each is a user's turn."""
        if dataset.turns is None and self.config.chat_template:
            return [[Turn("user", 0, len(text))] for text in dataset.texts]
        if dataset.turns is None and dataset.chat:
            raise UserError(
                f"{self._where(dataset)}: `chat` has options for a chat template, and these texts "
                "are no chats; with `extract: {chat_template: true}` each is a user's turn"
            )
        return dataset.turns

    def _ranges(self, dataset: ConceptDataset) -> dict[str, list[tuple[int, int]]]:
        """Return the part of each text, for every position that names a part."""
        ranges = {position: dataset.ranges(position, self.config.occurrence)
                  for position in self.config.positions}  # fmt: skip
        return {position: parts for position, parts in ranges.items() if parts is not None}

    def _fill(
        self,
        store: Store,
        dataset: ConceptDataset,
        key: dict[str, Any],
        world: World,
        progress: bool,
    ) -> Any:
        """Make the shards that are missing, then the manifest, and return it."""
        model = self.model
        began = time.monotonic()
        texts = self.tokens(dataset, model.tokenizer, model.module)
        require_usable_tokens(texts, dataset.stem or dataset.name, model)
        n_states = self._distinct_states(dataset, texts, model.causal, model.tokenizer)
        planner = self.planner(texts, model)
        with self.capture(self.layers(model.n_blocks), texts.n_unread_tokens) as capture:
            plans = dict[str, ExtractionPlan]()

            def checked_way() -> tuple[str, float]:
                plan, difference = verified_plan(planner, capture)
                plans[plan.way] = plan
                return plan.way, difference

            way, difference = world.checked_way(checked_way)
            plan = plans.get(way) or planner.plan(way)
            layout = digest({"extraction": key, "layout": plan.fingerprint})
            whole = world.agree(sorted(store.shards(layout)) if world.leader else None)
            missing = [i for i in range(len(plan.shards)) if i not in whole]
            tokens = {i: plan.shard_tokens(i) for i in range(len(plan.shards))}
            mine = world.share(tokens, whole)
            label = f"extracting {dataset.stem or dataset.name}"
            if world.leader:
                rows = sum(len(plan.rows(i)) for i in missing)
                require_space(store.folder, rows * planner.shape.row_bytes + 2**20, label)
                if capture.layers[-1]:  # Embeddings alone cost next to nothing.
                    cost = describe_cost(planner, plan, model)
                    log.info("%s: %s", self._where(dataset), cost)
            executor = ShardExecutor(plan, capture, dataset.name, world.size)
            shown, n_rows = progress and world.leader, sum(len(plan.rows(i)) for i in mine)
            with Progress(f"{label} with {model.name}", n_rows, shown=shown) as bar:
                for index, states in executor.shards(mine, bar):
                    store.write_shard(index, layout, states, capture.layers)
                    del states  # The next shard is made meanwhile, and needs the memory.
        world.wait()
        facts = None
        if world.ends(lambda: len(store.shards(layout)) == len(plan.shards)):
            facts = store.finish(layout, len(plan.shards), {
                "key": key,
                "model": model.name,
                "parameters": model.parameters,
                "layers": model.n_blocks,
                "layer_numbers": capture.layers,
                "hidden_size": model.hidden_size,
                "shape": [len(dataset), len(capture.layers), model.hidden_size],
                "site": self.config.site,
                "positions": list(self.config.positions),
                "dtype": dtype_name(model.dtype),
                "device": str(model.device),
                "way": plan.way,
                "check": difference,
                "tokens": texts.n_tokens,
                "unique_tokens": texts.n_unique_tokens,
                "distinct_states": n_states,
                "computed_tokens": plan.cost.tokens,
                "seconds": round(time.monotonic() - began, 3),
                **self._of_positions(texts, plan, model.causal),
            })  # fmt: skip
        return world.agree(facts)


def _from_anywhere(name: str) -> str:
    """Return a name, or a folder's absolute path: a probe is also used from other directories."""
    path = None if name in PACKAGED or name == "." else existing(name)
    return str(path or name)


def _origin_beside(model: ModelConfig, source: ModelSource | None) -> dict[str, Any]:
    """Return what a config adds to a model, without entries for what it does not add."""
    added: dict[str, Any] = {"convert": True} if model.convert else {}
    for key, name in (("tokenizer", model.tokenizer), ("adapter", model.adapter)):
        if name is not None:
            identity = source.beside.get(key, "") if source else ""
            added |= {key: _from_anywhere(name), f"{key}_revision": identity}
    return added


@dataclass
class _Loaded:
    """What has been located and loaded of a model, shared by its extractors."""

    in_memory: ModelInMemory | None = None
    source: ModelSource | None = None
    tokenizer: Any = None
    architecture: Architecture | None = None
    model: LoadedModel | None = None
