"""From a model and a dataset to hidden states, probes and transfer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from llmprobe.config.load import validated
from llmprobe.config.schema import (
    ExtractConfig,
    ModelConfig,
    ProbeConfig,
    TransferConfig,
    curve_positions,
)
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.text_encoder import TextEncoder
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed
from llmprobe.models.in_memory import ModelInMemory
from llmprobe.monitors.new_texts import ReadingOptions, extractor_like
from llmprobe.probing import protocol
from llmprobe.probing.pooling import pooled
from llmprobe.probing.transfer import transfer as transfer_of_plan
from llmprobe.probing.transfer_sets import Masked
from llmprobe.results.many_curves import of_one_run
from llmprobe.results.results import Results
from llmprobe.results.transfer import TransferMatrix
from llmprobe.runs.transfer import masked_datasets, plan_of

log = logging.getLogger(__name__)


def extract(
    model: str | Path | ModelConfig | nn.Module,
    dataset: ConceptDataset,
    *,
    tokenizer: Any = None,
    name: str = "",
    dtype: str = "auto",
    cache: bool = True,
    progress: bool = True,
    **options: Any,
) -> Activations:
    """Extract the hidden states of every layer of a model for every text of a dataset.

    ``llmprobe.extract("smollm2-135m", dataset).layer(12)`` is a float32 array [n, d].

    Parameters
    ----------
    model
        A known name, a Hub id, a folder, a ``ModelConfig``, or a transformers model in memory,
        which is read as it is and left unchanged.
    tokenizer
        The tokenizer of a model in memory; for another model, the name, id or folder of a tokenizer
        in place of its own.
    name
        The model's name in tables; by default its own.
    dtype
        The type in which the model computes: auto, float32, bfloat16 or float16.
    cache
        Whether to store the states on disk (``LLMPROBE_CACHE``) and reuse them. States of a model
        in memory are stored only with a ``name``, and reused only for the same weights.
    **options
        Keys of a config's ``extract`` section: site, position, batch_tokens, chat_template,
        too_long.

    Raises
    ------
    UserError
        The model cannot be found or loaded, an option is wrong, a text is too long.
    """
    if not isinstance(dataset, ConceptDataset):
        raise UserError(
            f"extract: the dataset is {type(dataset).__name__!r}; give what load_dataset returns, "
            "or ConceptDataset(name, texts, labels)"
        )
    config = validated(ExtractConfig, options, "extract")
    if isinstance(model, nn.Module):
        if dtype != "auto":
            raise UserError(f"dtype {dtype!r}: a model in memory computes in its own")
        own = ModelInMemory(model, tokenizer, name)
        with own.as_it_was():
            extractor = Extractor(own, config)
            cache = cache and bool(name)
            return extractor.extract_with_embeddings(dataset, cache=cache, progress=progress)
    extractor = Extractor(_model_config(model, tokenizer, name, dtype), config)
    return extractor.extract_with_embeddings(dataset, cache=cache, progress=progress)


def probe(activations: Activations, *, progress: bool = True, **options: Any) -> Results:
    """Probe every layer of some activations, at each of their positions.

    The results have ``.table``, ``.summary``, ``.predictions`` and ``.heatmap(path)``. If a dataset
    has several concepts, each has a curve.

    Parameters
    ----------
    **options
        Keys of a config's ``probe`` section: kind, folds, l2, controls, pooling, permutations,
        description_length, learning_curve, calibrate, multi_layer, device, seed.

    Raises
    ------
    UserError
        An option is wrong, or there are too few examples or groups for the folds.
    """
    if not isinstance(activations, Activations):
        raise UserError(
            f"probe: {type(activations).__name__!r} is no activations; give what extract returns, "
            "arrays to probe_layers, or a network to probe_network"
        )
    config = probe_config(options, "probe")
    of_each = [
        pooled(replace(activations, dataset=dataset).at(position), place)
        for dataset in activations.dataset.by_concept()
        for position in activations.positions
        for place in curve_positions([position], config)
    ]
    encoded = None
    if "text_encoder" in config.controls:
        encoder = TextEncoder(config.text_encoder)
        encoded = encoder.normalised(encoder.extract(activations.dataset, progress=progress))
    return of_one_run(
        [protocol.probe(one, config, encoded=encoded, progress=progress) for one in of_each]
    )


def transfer(
    sets: Mapping[str, Activations],
    *,
    by: str | None = None,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    leave_one_out: bool = False,
    mask: str | Sequence[str] = (),
    across_layers: bool = False,
    entity: str | None = None,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    progress: bool = True,
    **options: Any,
) -> TransferMatrix:
    """Fit probes on some activations, and score them on others, on units that they have not seen.

    ``llmprobe.transfer({"affirmed": a, "negated": b})`` has ``.table``, a row for each train set ×
    test set, and ``.plot.heatmap(path)``.

    Parameters
    ----------
    sets
        Activations of one model at one position, by the name that tables give them.
    by
        A field that divides datasets into sets, one for each of its values.
    train, test
        The names of the sets to fit probes on, and of those to score; by default all.
    leave_one_out
        Whether to also fit probes on all values of the field except one, and score that one.
    mask
        Fields whose text is replaced by "something" in every text. The model reads these texts too,
        and the probes of the whole dataset are scored on them.
    across_layers
        Whether to score probes of every layer on the states of every other layer too.
    entity
        The field that names what an example is about, if llmprobe does not find it itself.
    model, tokenizer
        With ``mask``, the model in memory that the states come from; a model with a name or id is
        loaded by it.
    **options
        Keys of a config's ``probe`` section: kind, folds, l2, seed.

    Raises
    ------
    UserError
        The sets are of different models, positions or layers; there is no such field or set; a set
        is too small for the folds; or no two sets have labels in common. With ``mask``, also: the
        model is not available, or is not the one that the states come from.
    """
    if not sets or not all(isinstance(one, Activations) for one in sets.values()):
        raise UserError('transfer: give activations by name, as {"a": activations}')
    at = {name: activations.at() for name, activations in sets.items()}
    for fact in ("model", "site", "position"):
        values = {name: str(activations.facts[fact]) for name, activations in at.items()}
        if len(set(values.values())) > 1:
            raise UserError(f"transfer: the sets differ in {fact}: {listed([*values.values()])}")
    # The given name replaces the dataset's; forms of one dataset are still known by their source.
    named = [(replace(one.dataset, name=name), one) for name, one in at.items()]
    asked = {"by": by, "train": train, "test": test, "leave_one_out": leave_one_out, "mask": mask,
             "entity": entity}  # fmt: skip
    config = validated(TransferConfig, asked, "transfer")
    masks = _without_fields(config, named, model, tokenizer, progress) if config.mask else {}
    plan = plan_of(config, probe_config(options, "transfer"), named, masks)
    facts = next(iter(at.values())).facts
    return transfer_of_plan(
        plan, across_layers=across_layers, model=facts["model"], position=facts["position"],
        progress=progress,
    )  # fmt: skip


def _without_fields(
    config: TransferConfig,
    sets: Sequence[tuple[ConceptDataset, Activations]],
    model: nn.Module | None,
    tokenizer: Any,
    progress: bool,
) -> dict[str, list[Masked]]:
    """Return the texts of each dataset with each field masked, and their states.

    The model reads them as it read the original texts. -> by the name of the dataset
    """
    where = "transfer: mask"
    own = None if model is None else ModelInMemory(model, tokenizer)
    masks: dict[str, list[Masked]] = {}
    known: list[Extractor] = []
    with own.as_it_was() if own else nullcontext():
        for dataset, activations in sets:
            facts = activations.facts
            if own is None and facts.get("in_memory"):
                raise UserError(f"{where}: the model {facts['model']!r} was one in memory; give it "
                                "(model=, tokenizer=)")  # fmt: skip
            reading = ReadingOptions(own, trust_remote_code=bool(facts.get("trust_remote_code")))
            extractor = extractor_like(facts, reading, where)
            if activations.layers != extractor.layers(facts["layers"]):
                only = {"layers": tuple(activations.layers)}
                extractor.config = extractor.config.model_copy(update=only)
            extractor = next((one for one in known if one.reads_as(extractor)), extractor)
            known.append(extractor)
            if own is None and facts.get("revision") not in ("", extractor.source.identity):
                raise UserError(f"{where}: {facts['model']!r} is no longer the model whose states "
                                "these are; extract them again")  # fmt: skip
            masks[dataset.name] = [
                (field, texts, extractor.extract(texts, cache=own is None, progress=progress).at())
                for field, texts in masked_datasets(config, dataset).items()
            ]
    return masks


def probe_layers(
    layers: Mapping[int, np.ndarray],
    labels: Sequence[Any] | np.ndarray,
    groups: Sequence[Any] | np.ndarray | None = None,
    *,
    texts: Sequence[str] | None = None,
    test: Sequence[bool] | np.ndarray | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Probe activations from anywhere: ``probe_layers({0: X0, 1: X1}, labels)``.

    Parameters
    ----------
    layers
        The activations [n, d] of each layer; the largest key counts as the last layer.
    labels
        The class of each row. [n]
    groups
        The group of each row; rows of one group never stand on both sides of a split. [n]
    texts
        The text of each row, for the bag-of-words baseline; rows with the same text share a fold.
        [n]
    test
        True for the rows to score, by probes that are fitted on the others; by default all are
        scored, in folds. [n] bool
    **options
        Keys of a config's ``probe`` section.

    Raises
    ------
    UserError
        Shapes differ, a value is not finite, or there are too few examples for the folds.
    """
    config = probe_config(options, "probe_layers")
    return protocol.probe_layers(
        layers, labels, groups, texts=texts, test=test, config=config, progress=progress
    )


def require_named(model: Any) -> None:
    """Raise ``UserError`` for what is not a model or the name of one, without printing it."""
    if not isinstance(model, str | Path | ModelConfig | nn.Module):
        raise UserError(
            f"the model is of the type {type(model).__name__!r}; give a known name, a Hub id, a "
            "folder, or a model of transformers"
        )


def _model_config(model: Any, tokenizer: Any, name: str, dtype: str) -> ModelConfig:
    """Return the config of a model, with the given name, tokenizer and dtype."""
    require_named(model)
    if not isinstance(tokenizer, str | Path | None):
        raise UserError(
            "tokenizer: an object goes with a model in memory; for another give a name or folder"
        )
    known = model.model_dump() if isinstance(model, ModelConfig) else {"id": str(model)}
    said = {"name": name, "tokenizer": str(tokenizer or ""), "dtype": dtype.removeprefix("auto")}
    values = known | {key: value for key, value in said.items() if value}
    return validated(ModelConfig, values, f"model {known['id']}")


def probe_config(options: dict[str, Any], where: str) -> ProbeConfig:
    config = validated(ProbeConfig, options, where)
    if "random_weights" in config.controls:
        raise UserError(
            f"{where}: controls: random_weights needs states of its own, which `llmprobe run` "
            'makes; here, probe those of ModelConfig(id=…, weights="random")'
        )
    if "perplexity" in config.controls:
        raise UserError(f"{where}: controls: perplexity runs the model with its head again, which "
                        "`llmprobe run` does")  # fmt: skip
    if where in ("probe_layers", "probe_network", "ProbeCallback"):
        for control in ("token_embeddings", "text_encoder"):
            if control in options.get("controls", ()):
                log.warning("%s: controls: %s needs texts that a model has read", where, control)
    return config
