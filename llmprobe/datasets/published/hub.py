"""IMDb and SST-2, as the Hugging Face Hub has them."""

from __future__ import annotations

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.published.files import FILES_OF, fetch, on_hub
from llmprobe.datasets.published.reading import published, require_option
from llmprobe.datasets.registry import dataset
from llmprobe.datasets.tables import read_table

MAAS = (
    "Maas, Daly, Pham, Huang, Ng and Potts (2011), Learning word vectors for sentiment analysis, "
    "ACL"
)
SOCHER = (
    "Socher, Perelygin, Wu, Chuang, Manning, Ng and Potts (2013), Recursive deep models for "
    "semantic compositionality over a sentiment treebank, EMNLP"
)
_IMDB = ("imdb", "stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31")
_SST2 = ("sst2", "stanfordnlp/sst2", "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb")
IMDB = {
    "test": on_hub(
        *_IMDB, "plain_text/test-00000-of-00001.parquet",
        "b52e26e2f872d282ffac460bf9770b25ac6f102cda0e6ca7158df98c94e8b3da", 20_470_363,
    ),
    "train": on_hub(
        *_IMDB, "plain_text/train-00000-of-00001.parquet",
        "db47d16b5c297cc0dd625e519c81319c24c9149e70e8496de5475f6fa928342c", 20_979_968,
    ),
}  # fmt: skip
SST2 = {
    "validation": on_hub(
        *_SST2, "data/validation-00000-of-00001.parquet",
        "fb00fe008f6828f86ba2beda8415a4cf5da0c884f21c5f238c87131b5aa19529", 72_813,
    ),
    "train": on_hub(
        *_SST2, "data/train-00000-of-00001.parquet",
        "c7921283b75a42e685f50edecb96798607ea0fcbfd0739ee8975f22c12d55f09", 3_110_458,
    ),
}  # fmt: skip
FILES_OF["imdb"] = (IMDB["test"],)
FILES_OF["sst2"] = (SST2["validation"],)


@dataset("imdb", "hub")
def imdb(split: str = "test") -> ConceptDataset:
    """Is a film review on IMDb negative (0) or positive (1)?

    25,000 reviews in each split, half of each class, at most 30 of a film.

    Parameters
    ----------
    split
        "test" or "train".

    Raises
    ------
    UserError
        Another split, or the file cannot be had.
    """
    require_option("imdb", "split", split, list(IMDB))
    file = IMDB[split]
    return published(
        "imdb",
        read_table(fetch(file, "imdb"))[["text", "label"]],
        [file],
        description="Is a film review on IMDb negative (0) or positive (1)?",
        citation=MAAS,
    )


@dataset("sst2", "hub")
def sst2(split: str = "validation") -> ConceptDataset:
    """Is a sentence from a film review negative (0) or positive (1)?

    The Stanford Sentiment Treebank with two classes, as GLUE has it.

    Parameters
    ----------
    split
        "validation" (872 sentences) or "train" (67,349 sentences and phrases out of them, so that
        near copies stand on both sides of any split).

    Raises
    ------
    UserError
        Another split, or the file cannot be had.
    """
    require_option("sst2", "split", split, list(SST2))
    file = SST2[split]
    return published(
        "sst2",
        read_table(fetch(file, "sst2"))[["sentence", "label"]].rename(columns={"sentence": "text"}),
        [file],
        description="Is a sentence from a film review negative (0) or positive (1)?",
        citation=SOCHER,
    )
