"""A saved probe for elsewhere: as plain arrays, or as a folder for the Hugging Face Hub."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.figure import Figure

from llmprobe.config.load import parsed_yaml
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import existing, whole_file, write_text
from llmprobe.ground.text import capitalised, printable
from llmprobe.models.packaged import PACKAGED
from llmprobe.probing.pooling import Pooling
from llmprobe.reporting.charts.style import GREY, label, model_style, png, styled
from llmprobe.results.folder import read_results
from llmprobe.results.questions import QUESTIONS
from llmprobe.results.saved_probe import SavedProbe

log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")

_NUMPY = """# {title}

`probe.npz` has a linear probe {layers}: `coef_L` [K, d] and
`intercept_L` [K] in float64. It was fitted on the states [n, d] of {site}, position {position}.

    import numpy as np
    probe = np.load("probe.npz")
    logits = states @ probe["coef_{best}"].T + probe["intercept_{best}"]  # best layer: [n, K]

{meaning}
Layer 0 enters the first block, layer i leaves block i, before the final norm.
"""

_POOLED = {
    "max": "is the largest of theirs.",
    "softmax": "is the mean of theirs, weighted by the soft-max of logit / {:g}.",
    "attention": "is the mean of theirs, weighted by the soft-max of `states @ query_L` over them.",
}
"""What is said of a probe that pools scores, by the kind of pooling."""

_CARD = """# {title}

A linear probe that reads {concept} from the hidden states of {model}. It is not a
model of its own: it says what is readable in those states, not what the model does with it.

![Score over layers, with 95 % intervals](scores.png)

{scores}

Out-of-fold: each example is scored by a probe that saw neither it nor its group. {chosen}
{evidence}
## Use

```python
import llmprobe

probe = llmprobe.load_probe("{file}")
probe.predict_proba(states)  # states [n, {width}] of {read}
```

    llmprobe score {file} --file texts.csv    # runs the model on texts, and scores them
    llmprobe verify {file}                    # does this machine give the states it was fitted on?

## How it was made

{facts}

The file has directions and intercepts (`coef.L` [K, d], `intercept.L` [K] of each layer L, in raw
activation space), and golden examples: the token ids of {golden} of the texts that it was fitted
on, with its logits, so that other engines can be compared. Anyone who has the file can read these
texts.
"""


_EVIDENCE = """
## What it is evidence of

{line}.

| question | answer | what it rests on |
|---|---|---|
{rows}
"""


def export_numpy(probe: SavedProbe, out: Path) -> list[Path]:
    """Write ``probe.npz`` and a README that says how to apply it.

    Returns
    -------
    list[Path]
        The files.
    """
    arrays: dict[str, Any] = {"layers": np.array(probe.layers), "best_layer": probe.best_layer}
    if probe.classes:
        arrays["classes"] = np.array([str(name) for name in probe.classes])
    for layer in probe.layers:
        arrays[f"coef_{layer}"] = probe.coef[layer]
        arrays[f"intercept_{layer}"] = probe.intercept[layer]
        if layer in probe.query:
            arrays[f"query_{layer}"] = probe.query[layer]
    content = io.BytesIO()
    np.savez(content, **arrays)
    with whole_file(out / "probe.npz") as partial:
        partial.write_bytes(content.getvalue())
    facts, classes = probe.facts, _classes(probe)
    meaning = "A logit is the predicted number."
    if len(classes) == 2:
        meaning = f"A logit above 0 means {classes[1]}, below 0 {classes[0]}; its sigmoid is the "
        meaning += f"probability of {classes[1]}."
    elif classes:
        meaning = f"The largest logit names the class ({', '.join(classes)}); soft-max gives "
        meaning += "probabilities."
    pooling = Pooling.of(str(facts.get("position")))
    if pooling is not None and not pooling.is_of_states:
        how = _POOLED[pooling.kind].format(pooling.number)
        meaning = f"Rows are the tokens of a text, whose logit {how} {meaning}"
    readme = _NUMPY.format(
        title=_code(_title(probe)), layers=_layers(probe),
        site=_code(facts.get("site") or "arrays"), position=_code(facts.get("position") or "none"),
        best=probe.best_layer, meaning=meaning,
    )  # fmt: skip
    write_text(out / "README.md", readme)
    return [out / "probe.npz", out / "README.md"]


def export_hub(probe: SavedProbe, path: Path, out: Path, base_model: str | None) -> list[Path]:
    """Write a folder for ``huggingface_hub.upload_folder``: card, probe and figure.

    Parameters
    ----------
    path
        The probe's file in its run folder, whose config has the dataset's name on the Hub.
    base_model
        The model's id on the Hub; by default the one that the probe remembers.

    Raises
    ------
    UserError
        Others cannot find the probe's model by what it remembers, so ``base_model`` is needed.
    """
    base_model, probe = _findable(probe, str(path), base_model)
    file = f"{_word(probe.facts['dataset'])}.safetensors"
    best = probe.layers.index(probe.best_layer)
    metrics = scored_metrics(probe)
    dataset = _dataset(probe, path)
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=f"linear probe at {probe.layers_in_words()}",
            dataset_type=_word(dataset),
            dataset_name=str(probe.facts["dataset"]),
            metric_type={"auroc": "roc_auc"}.get(metric, metric),
            metric_name=f"{metric}, out-of-fold",
            metric_value=round(probe.scores[metric][best], 4),
        )
        for metric in metrics
        if probe.classes
    ]
    data = ModelCardData(
        base_model=base_model,
        library_name="llmprobe",
        model_name=_title(probe),
        datasets=[dataset] if _HUB_ID.fullmatch(dataset) else None,
        tags=["llmprobe", "linear-probe", "probing", "interpretability"],
        metrics=[{"auroc": "roc_auc"}.get(metric, metric) for metric in metrics],
        eval_results=results or None,
    )
    facts = {name: value for name, value in probe.facts.items() if value not in ("", None)}
    classes = ", ".join(_classes(probe))
    body = _CARD.format(
        title=_code(_title(probe)), model=_code(base_model), chosen=_chosen(probe), file=file,
        concept=f"{_code(probe.facts['dataset'])} ({classes or 'a number'})",
        width=probe.coef[probe.best_layer].shape[1], read=_read(probe),
        golden=len(probe.golden) or "none",
        scores="\n".join(_score_rows(probe, metrics)), evidence=_evidence(probe, path),
        facts="\n".join(f"- {name}: {_code(value)}" for name, value in sorted(facts.items())),
    )  # fmt: skip
    # Joined by hand, since names in the text must not be taken for a template.
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")
    write_text(out / "README.md", str(card))
    probe.save(out / file)
    with whole_file(out / "scores.png") as partial:
        partial.write_bytes(png(scores_figure(probe, metrics[0])))
    return [out / "README.md", out / file, out / "scores.png"]


def _findable(probe: SavedProbe, where: str, base_model: str | None) -> tuple[str, SavedProbe]:
    """Return the id by which others find the model, and the probe with that id in its facts."""
    model = str(probe.facts.get("model_id", ""))
    if base_model is None and not model:
        raise UserError(f"{where}: does not say which model it is of; say --base-model OWNER/NAME")
    if base_model is None and (existing(model) or not _HUB_ID.fullmatch(model)):
        raise UserError(
            f"{where}: its model is on this disk alone ({model}); say where others find it, as in "
            "--base-model OWNER/NAME"
        )
    if base_model is not None and not _HUB_ID.fullmatch(base_model):
        raise UserError(f"--base-model: {base_model!r:.80} is no name on the Hub, as OWNER/NAME")
    if base_model is None:
        if model in PACKAGED:
            log.warning("%s is a name of llmprobe's, not of the Hub; --base-model OWNER/NAME says "
                        "what it is there", model)  # fmt: skip
        return model, probe
    if base_model != model and model not in PACKAGED:
        # The identity of files in a folder is no revision on the Hub.
        facts = {**probe.facts, "model_id": base_model, "revision": ""}
        probe = replace(probe, facts=facts)
    return base_model, probe


def _dataset(probe: SavedProbe, path: Path) -> str:
    """Return the dataset's name on the Hub if the run's config has it, else its own name."""
    name = str(probe.facts["dataset"])
    try:
        entries = parsed_yaml(path.absolute().parents[2] / "config.yaml")["datasets"]
        hub = {entry.get("as") or entry.get("name"): entry.get("hub") for entry in entries}
        return str(hub.get(name) or name)
    except (UserError, LookupError, TypeError, AttributeError):
        return name


def _evidence(probe: SavedProbe, path: Path) -> str:
    """Return what the probe's run answers about its curve; "" if the probe is in no run folder."""
    try:
        run = read_results(path.absolute().parents[2], details=False)
    except (UserError, LookupError):
        return ""
    key = tuple(probe.facts.get(name) for name in ("model", "dataset", "position"))
    for evidence in run.evidence:
        if evidence.key == key:
            rows = (
                f"| {QUESTIONS[name].asks} | {answer.answer} | {_plain(answer.sentence)} |"
                for name, answer in evidence.questions.items()
            )
            return _EVIDENCE.format(line=_plain(capitalised(evidence.line)), rows="\n".join(rows))
    return ""


def scored_metrics(probe: SavedProbe) -> list[str]:
    """Return the metrics whose scores are known; the first one is that of the figure."""
    return [
        metric
        for metric in (("accuracy", "auroc") if probe.classes else ("r2",))
        if np.isfinite(probe.scores.get(metric, [np.nan])).all()
    ]


def _score_rows(probe: SavedProbe, metrics: Sequence[str]) -> Iterator[str]:
    """Yield a Markdown table of each layer's scores, with their 95 % intervals."""
    names = {"accuracy": "accuracy", "auroc": "AUROC", "r2": "R²"}
    yield "| layer | " + " | ".join(names[metric] for metric in metrics) + " |"
    yield "|---|" + "---|" * len(metrics)
    for place, layer in enumerate(probe.layers):
        cells = []
        for metric in metrics:
            low, high = (probe.scores.get(f"{metric}_{end}") for end in ("low", "high"))
            cell = f"{probe.scores[metric][place]:.3f}"
            if low and high and np.isfinite([low[place], high[place]]).all():
                cell += f" ({low[place]:.3f}–{high[place]:.3f})"
            cells.append(cell)
        mark = "**" if layer == probe.best_layer else ""
        yield f"| {mark}{layer}{mark} | " + " | ".join(cells) + " |"


@styled
def scores_figure(probe: SavedProbe, metric: str) -> Figure:
    """Draw the out-of-fold score of each layer of a probe, with its interval."""
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes, style = figure.subplots(), model_style(0)
    scores, low, high = (
        np.array(probe.scores.get(f"{metric}{end}", np.full(len(probe.layers), np.nan)))
        for end in ("", "_low", "_high")
    )
    axes.fill_between(probe.layers, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(probe.layers, scores, **style)
    axes.axvline(probe.best_layer, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="layer (dotted: the best one)", ylabel=f"{metric}, out-of-fold")
    axes.set_title(label(_title(probe), 70))
    return figure


def _title(probe: SavedProbe) -> str:
    facts = probe.facts
    return printable(f"{facts.get('dataset', 'probe')} in {facts.get('model', 'a network')}")


def _word(name: object) -> str:
    """Return a name with only letters, digits and ``_.-``."""
    return re.sub(r"[^\w.-]+", "-", str(name)).strip("-.") or "probe"


def _read(probe: SavedProbe) -> str:
    """Say from which layers a probe reads states."""
    return probe.layers_in_words() + ", side by side" * bool(probe.reads)


def _chosen(probe: SavedProbe) -> str:
    """Say how the layer was chosen, or what is read at once."""
    if probe.reads:
        return f"It reads {probe.layers_in_words()} at once."
    return f"The best layer\n({probe.best_layer}) was chosen by the held-out loss."


def _layers(probe: SavedProbe) -> str:
    """Say for which layers there is a probe, or which layers it reads at once."""
    if probe.reads:
        return f"of {probe.layers_in_words()} at once, whose states stand side by side (d in all)"
    return f"for each of the layers {probe.layers[0]} to {probe.layers[-1]}"


def _classes(probe: SavedProbe) -> list[str]:
    """Return each class, with its name if that differs: `1` (`true`)."""
    return [
        _code(label) + (f" ({_code(name)})" if name != str(label) else "")
        for label, name in zip(probe.classes, probe.class_names, strict=True)
    ]


def _plain(text: str) -> str:
    """Return a sentence with its Markdown escaped."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&-])", r"\\\1", printable(text))


def _code(value: object) -> str:
    """Return a value as code in Markdown, which shows it literally."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "`" + printable(text).replace("`", "'") + "`"
