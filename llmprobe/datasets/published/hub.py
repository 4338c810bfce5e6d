"""IMDb and SST-2, as the Hugging Face Hub has them.

IMDb has 25,000 reviews in each split, half of each class, at most 30 of a film. SST-2 is the
Stanford Sentiment Treebank with two classes, as GLUE has it: 872 sentences to validate, and 67,349
sentences and phrases out of them to train, so that near copies stand on both sides of any split.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from llmprobe.datasets.published.entry import PublishedDataset, register
from llmprobe.datasets.published.files import on_hub
from llmprobe.datasets.tables import read_table

MAAS = (
    "Maas, Daly, Pham, Huang, Ng and Potts (2011), Learning word vectors for sentiment analysis, "
    "ACL"
)
SOCHER = (
    "Socher, Perelygin, Wu, Chuang, Manning, Ng and Potts (2013), Recursive deep models for "
    "semantic compositionality over a sentiment treebank, EMNLP"
)
_IMDB = {
    split: (
        on_hub(
            "imdb", "stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
            f"plain_text/{split}-00000-of-00001.parquet", digest, size,
        ),
    )
    for split, digest, size in (
        ("test", "b52e26e2f872d282ffac460bf9770b25ac6f102cda0e6ca7158df98c94e8b3da", 20_470_363),
        ("train", "db47d16b5c297cc0dd625e519c81319c24c9149e70e8496de5475f6fa928342c", 20_979_968),
    )
}  # fmt: skip
IMDB_TEST = _IMDB["test"]
_SST2 = {
    split: (
        on_hub(
            "sst2", "stanfordnlp/sst2", "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
            f"data/{split}-00000-of-00001.parquet", digest, size,
        ),
    )
    for split, digest, size in (
        ("validation", "fb00fe008f6828f86ba2beda8415a4cf5da0c884f21c5f238c87131b5aa19529", 72_813),
        ("train", "c7921283b75a42e685f50edecb96798607ea0fcbfd0739ee8975f22c12d55f09", 3_110_458),
    )
}  # fmt: skip


def _texts_and_labels(path: Path) -> pd.DataFrame:
    return read_table(path).rename(columns={"sentence": "text"})[["text", "label"]]


register(
    PublishedDataset(
        "imdb", "Is a film review on IMDb negative (0) or positive (1)?",
        _IMDB["test"], MAAS, _texts_and_labels, splits=_IMDB, family="hub",
    )
)  # fmt: skip
register(
    PublishedDataset(
        "sst2", "Is a sentence from a film review negative (0) or positive (1)?",
        _SST2["validation"], SOCHER, _texts_and_labels, splits=_SST2, family="hub",
    )
)  # fmt: skip
