"""Numbers of published studies, which are drawn beside curves of the same datasets."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from llmprobe.ground.files import shipped


@dataclass(frozen=True)
class PublishedStudy:
    """What a study published, in the names of datasets and the numbers of layers used here."""

    name: str
    """What ``llmprobe compare --published`` takes."""
    citation: str
    curves: pd.DataFrame
    """Accuracy at each layer: model, dataset, layer (what leaves block ``layer``), accuracy, and
    ``depth``, layer / number of blocks."""
    peaks: pd.DataFrame
    """The best accuracy of each model on each dataset, with the converging layer: model, blocks,
    dataset, peak_accuracy, converging_layer."""
    baselines: pd.DataFrame
    """Majority class and bag of words under the split of the study, computed by llmprobe and not
    published there: dataset, statements, majority, bag_of_words, bag_of_words_auroc."""


def jin2024() -> PublishedStudy:
    """Return the numbers of Jin et al. (2024): 27 curves of three models, 81 peaks of nine."""
    curves, peaks, baselines = (
        pd.read_csv(shipped("data") / f"jin2024_{table}.csv")
        for table in ("curves", "peaks", "baselines")
    )
    blocks = peaks.drop_duplicates("model").set_index("model")["blocks"]
    return PublishedStudy(
        name="jin2024",
        citation="Jin et al. (2024), Exploring Concept Depth, arXiv 2404.07066",
        curves=curves.assign(depth=curves["layer"] / curves["model"].map(blocks)),
        peaks=peaks,
        baselines=baselines,
    )
