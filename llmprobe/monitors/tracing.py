"""From texts and saved probes to traces."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from llmprobe.datasets.spans import Turn
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.every_token import read_every_token
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.token_strings import token_strings
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.monitors.new_texts import (
    NewTextReader,
    ReadingOptions,
    reading_of_chats,
    tokenise_new,
)
from llmprobe.probing.pooling import Pooling
from llmprobe.results.folder import read_environment
from llmprobe.results.saved_probe import SavedProbe, load_probe
from llmprobe.results.trace import TRACES, Trace

log = logging.getLogger(__name__)


def trace(
    extractor: Extractor,
    probe: SavedProbe,
    texts: Sequence[str],
    turns: Sequence[Sequence[Turn]] | None = None,
    ranges: Sequence[tuple[int, int]] | None = None,
) -> list[Trace]:
    """Return the scores of ``probe`` at every token and layer of texts, each run alone.

    Parameters
    ----------
    extractor
        One for the probe's model and site.
    texts
        As the model reads them: in their template, but not yet in a chat template.
    turns
        For chats, the turns of each text. Without, a text is one user turn if the probe's own
        texts were put into a chat template.
    ranges
        For each text, the part that the probe's position refers to, from ``ConceptDataset.ranges``.
        Without, a position at a field, a turn or a word cannot be found in a text.

    Raises
    ------
    UserError
        A text is too long or has no tokens; a state is not finite.
    """
    width, position = max(len(probe.classes), 1), str(probe.facts.get("position", "last"))
    traces, pooling, of_words = [], Pooling.of(position), bool(probe.facts.get("of_words"))
    with Capture(extractor.model, extractor.config.site, probe.layers) as capture:
        layers = list(capture.layers)
        for number, text in enumerate(texts, start=1):
            where = f"text {number} of {len(texts)}" if len(texts) > 1 else "the text"
            # Other positions refer to fields, turns and words, which a bare text does not have.
            is_of_text = not of_words and (":" not in position or position.startswith("token:"))
            is_known = is_of_text or pooling is not None or ranges is not None
            tokenised = tokenise_new(
                extractor, [text], where, position=position if is_known else "last",
                ranges=None if ranges is None else {position: [ranges[number - 1]]},
                chat=reading_of_chats(probe),
                turns=None if turns is None else [turns[number - 1]],
            )  # fmt: skip
            (tokens,), (places,) = tokenised.ids, tokenised.places
            read = [token for place in places for token in place]
            outputs = read_every_token(
                capture, tokens, width, lambda layer, states: probe.outputs(states, layer)
            )
            answers = outputs[layers.index(probe.best_layer), read]
            is_max = pooling is not None and pooling.kind == "max"
            answer = answers.max(axis=0) if is_max else answers.mean(axis=0)
            column = 1 if width == 2 else int(answer.argmax())
            traces.append(
                Trace(
                    text=text,
                    tokens=token_strings(extractor.model.tokenizer, tokens),
                    layers=layers,
                    scores=outputs[:, :, column],
                    model=str(probe.facts["model"]),
                    dataset=str(probe.facts["dataset"]),
                    best_layer=probe.best_layer,
                    label=probe.class_names[column] if probe.classes else None,
                    position=position,
                    probe=probe.digest,
                    read=read if is_known else [],
                    of_words=of_words,
                )
            )
    return traces


def trace_probes(
    probes: Sequence[tuple[str, SavedProbe]], texts: Sequence[str], options: ReadingOptions
) -> Iterator[Trace]:
    """Yield a trace of each text by each probe.

    Parameters
    ----------
    probes
        What each is called in errors, and the probe. A model is loaded once for all its probes that
        follow each other.
    texts
        Without the template; that of the probe's own texts, or of ``options``, is applied.

    Raises
    ------
    UserError
        A text is empty or too long; a probe is not of a language model, or reads several layers at
        once; its model cannot be loaded, or has changed.
    """
    for where, probe in probes:
        if probe.reads:
            raise UserError(f"{where}: reads {probe.layers_in_words()} at once, so it has no score "
                            "at each layer to trace")  # fmt: skip
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            which = f"number {number} " if len(texts) > 1 else ""
            raise UserError(f"--text {which}is empty; give one such as 'Lima is in Peru.'")
        # What was typed in another encoding comes as halves of surrogate pairs.
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"--text {text!r:.80}: not in UTF-8, so no text that a model can read")
    readers = [NewTextReader(probe, where, options) for where, probe in probes]
    values = pd.DataFrame({"text": list(texts)})
    filled = [reader.fill_template(values, reader.where)[0] for reader in readers]
    extractor: Extractor | None = None
    for reader, filled_texts in zip(readers, filled, strict=True):
        if extractor is not None and extractor.reads_as(reader.extractor):
            reader.extractor = extractor
        extractor = reader.extractor
        reader.require_own_model()
        yield from trace(extractor, reader.probe, filled_texts)


def trace_folder(run: Path) -> Path:
    """Return the folder for traces: of a run, of the run of a probe, or else beside the probe."""
    if run.is_file():
        beside, *above = run.absolute().parents
        run = above[1] if above and above[0].name == "probes" else beside
    return run / TRACES


def probes_of_run(
    run: Path,
    models: Sequence[str] = (),
    datasets: Sequence[str] = (),
    positions: Sequence[str] = (),
) -> list[tuple[str, SavedProbe]]:
    """Load the probes of a run folder, or the one of a probe file, each with its path.

    Parameters
    ----------
    models, datasets, positions
        The names to load; by default all, but only the first dataset of the run.

    Raises
    ------
    UserError
        There is no such run, model, dataset or position.
    """
    if not run.exists():
        raise UserError(f"{run}: no such run folder or probe file")
    paths = [run] if run.is_file() else sorted(run.glob("probes/*/*.safetensors"))
    if not paths:
        raise UserError(f"{run}: has no saved probes (probes/MODEL/DATASET.safetensors), which "
                        "`llmprobe run` leaves")  # fmt: skip
    probes = [(str(path), load_probe(path)) for path in paths]
    if not run.is_file():  # Probes of several layers have no score at each layer.
        probes = [one for one in probes if not one[1].reads]
    chosen = probes
    for kind, wanted in (("model", models), ("dataset", datasets), ("position", positions)):
        known = {str(probe.facts.get(kind)) for _, probe in probes}
        for name in wanted:
            if name not in known:
                raise UserError(f"{run}: no probe of {kind} {name!r}; {suggestion(name, known)}")
        chosen = [one for one in chosen if not wanted or one[1].facts[kind] in wanted]
    if not datasets:
        chosen = _of_first_dataset(run, chosen)
    if not chosen:
        raise UserError(f"{run}: no probe of these models on these datasets at these positions")
    return chosen


def _of_first_dataset(
    run: Path, probes: Sequence[tuple[str, SavedProbe]]
) -> list[tuple[str, SavedProbe]]:
    """Return the probes of a run's first dataset, with all its concepts, and log that.

    A text belongs to one dataset: scores by probes of other datasets mean nothing.
    """
    names = list(dict.fromkeys(str(probe.facts.get("dataset")) for _, probe in probes))
    try:
        order = [facts["name"] for facts in read_environment(run)["datasets"]]
    except UserError:
        order = []
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    (first, *others) = dict.fromkeys(name.partition(":")[0] for name in names) or [""]
    if others:
        log.info("by the probes of %s; --dataset %s takes that one's", first, others[0])
    return [one for one in probes if str(one[1].facts.get("dataset")).partition(":")[0] == first]
