"""Labelled grey images: bundled digits, a folder of IDX files, or a dataset on the Hub."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets import hub
from llmprobe.ground.errors import NotOnDiskError, UserError, suggestion
from llmprobe.ground.files import existing
from llmprobe.sanity.idx import is_mnist, read_folder, read_idx

if TYPE_CHECKING:
    import datasets
    import PIL.Image

__all__ = ["Images", "load_images", "read_idx"]

MNIST_CONTENT = "a8e4da5caae9401b5fc19cebd8931262a7c56eb2b1ce44db151a3db14a7c14c9"
"""``content_hash`` of MNIST as published, wherever it was read from."""

MNIST_ON_HUB = ("ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c")
"""Dataset and commit."""

SMALLEST_SIDE = 8
"""Pixels; the network halves each side twice."""

MOST_CLASSES = 1000
"""The network has an output for each class number up to the largest."""

FEWEST_OF_A_CLASS = 4
"""Training images, since a probe's penalty is chosen in that many folds."""

FEWEST_TESTED = 20
"""Test images; their labels are coded in portions, and an interval of fewer says nothing."""

_MNIST_LICENCE = "none stated by its authors; often given as CC BY-SA 3.0, on the Hub as MIT"

_HUB_ID = re.compile(r"[^/\s.~][^/\s]*/[^/\s]+")


@dataclass(frozen=True)
class Images:
    """Labelled grey images, with a test set of their own."""

    name: str
    """``"digits"``, ``"mnist"``, or what the folder or the dataset on the Hub is called."""
    train: np.ndarray
    """From black, -0.5, to white, 0.5. float32 [n, 1, height, width]"""
    train_labels: np.ndarray
    """Class numbers, not negative. int64 [n]"""
    test: np.ndarray
    """float32 [m, 1, height, width]"""
    test_labels: np.ndarray
    """Of classes that are in ``train_labels`` too. int64 [m]"""
    source: str
    """Where they come from, in words."""
    licence: str
    content_hash: str
    """sha256 of the four arrays, as hexadecimal digits."""

    @property
    def classes(self) -> int:
        """Outputs that a network needs: one more than the largest class number."""
        return int(self.train_labels.max()) + 1

    def for_probes(self, train: int, test: int) -> ForProbes:
        """At most so many training and test images, drawn at random, of each class its share.

        Raises
        ------
        UserError
            A class has too few of those training images for its probes, or test images are too few.
        """
        if len(self.test) < FEWEST_TESTED:
            raise UserError(
                f"{self.name}: {len(self.test)} test images; {FEWEST_TESTED} or more are needed"
            )
        fitted, scored = _drawn(self.train_labels, train), _drawn(self.test_labels, test)
        n_of = np.bincount(self.train_labels[fitted], minlength=self.classes)
        for label in np.unique(self.train_labels):
            if n_of[label] < FEWEST_OF_A_CLASS:
                raise UserError(
                    f"{self.name}: class {label} has {n_of[label]} of the {len(fitted):,} "
                    f"training images on which probes are fitted; {FEWEST_OF_A_CLASS} or more of "
                    "each class are needed"
                )
        return ForProbes(
            np.concatenate([self.train[fitted], self.test[scored]]),
            np.concatenate([self.train_labels[fitted], self.test_labels[scored]]),
            np.repeat([False, True], [len(fitted), len(scored)]),
        )


def _drawn(labels: np.ndarray, most: int) -> np.ndarray:
    """Some rows: files may be sorted by class, and MNIST's first test images are the hardest."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - (sizes.cumsum() - sizes)[labels[order]]
    first = np.argsort((rank + 0.5) / sizes[labels[order]], kind="stable")[:most]
    return np.sort(order[first])


class ForProbes(NamedTuple):
    """What probes are fitted on, then what they are scored on."""

    inputs: np.ndarray
    """float32 [n, 1, height, width]"""
    labels: np.ndarray
    """int64 [n]"""
    test: np.ndarray
    """Which are scored. bool [n]"""


class _Labelled(NamedTuple):
    pixels: np.ndarray
    """uint8 [n, height, width]"""
    labels: np.ndarray
    """Any integers [n]"""


def settled(data: str) -> str:
    """What ``data`` stands for here and now, said so that it means the same elsewhere.

    "auto" becomes "digits" or "mnist", a folder its absolute path; all else stays as it is.
    """
    if data == "auto":
        return "digits" if _own_mnist() is None else "mnist"
    folder = None if data in ("digits", "mnist") else existing(data)
    return data if folder is None else str(folder)


def load_images(data: str = "auto") -> Images:
    """Images by name, from a folder, or from the Hugging Face Hub.

    Parameters
    ----------
    data
        - ``"digits"``: the 1,797 digits of 8 × 8 pixels that come with scikit-learn, two thirds of
          each class for training.
        - ``"mnist"``: the IDX files in ``LLMPROBE_DATA/mnist``, or else ``ylecun/mnist`` on the
          Hub, or its copy in the cache of ``datasets``.
        - ``"auto"``: MNIST if ``LLMPROBE_DATA/mnist`` is there, else the digits. Downloads nothing.
        - A folder of four IDX files, gzipped or not, with the names that MNIST's have.
        - ``"owner/name"``: a dataset on the Hub with columns ``image`` and ``label`` and splits
          ``train`` and ``test``; colours become grey. ``"hub:owner/name"`` where there is a folder
          of that name.

    Raises
    ------
    NotOnDiskError
        The Hub cannot be reached, and the dataset is not in the cache.
    UserError
        There is no such folder or dataset; a file is missing, damaged or mislabelled; counts or
        sizes differ; images are smaller than 8 × 8; a label is missing or above 999, or there is
        one class.
    """
    data = settled(data)
    if data == "digits":
        return _digits()
    if data == "mnist":
        own = _own_mnist()
        return _from_hub(*MNIST_ON_HUB) if own is None else _from_folder(own, "mnist")
    folder = existing(data)
    if folder is not None:
        return _from_folder(folder, folder.name)
    name = data.removeprefix("hub:")
    if _HUB_ID.fullmatch(name):
        return _from_hub(name)
    hint = suggestion(data, ("auto", "digits", "mnist"))
    raise UserError(f"{data}: no such folder, and no id on the Hub (owner/name) either; {hint}")


def _digits() -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundled = load_digits()
    pixels, labels = bundled.images.astype(np.uint8), bundled.target
    chosen, held_out = train_test_split(
        np.arange(len(labels)), test_size=1 / 3, stratify=labels, random_state=0
    )
    return _images(
        "digits",
        _Labelled(pixels[chosen], labels[chosen]),
        _Labelled(pixels[held_out], labels[held_out]),
        "scikit-learn's load_digits, which is the test set of Optical Recognition of Handwritten "
        "Digits (Alpaydin and Kaynak 1998, UCI Machine Learning Repository)",
        "CC BY 4.0",
        white=16,
    )


def _own_mnist() -> Path | None:
    """The user's folder of MNIST files, if there is one."""
    data = os.environ.get("LLMPROBE_DATA")
    folder = Path(data).expanduser() / "mnist" if data else None
    return folder if folder is not None and folder.is_dir() else None


def _from_folder(folder: Path, name: str) -> Images:
    arrays = read_folder(folder)
    canonical = is_mnist(arrays)
    return _images(
        name,
        _Labelled(*arrays[:2]),
        _Labelled(*arrays[2:]),
        f"IDX files in {folder}{_about(name, canonical)}",
        _MNIST_LICENCE if canonical else "not stated in the files",
        where=str(folder),
    )


def _from_hub(name: str, revision: str | None = None) -> Images:
    try:
        splits, commit = _hub_splits(DatasetConfig(hub=name, revision=revision))
    except NotOnDiskError as error:
        raise NotOnDiskError(
            f"{error}; ways without it: --data FOLDER with four IDX files, LLMPROBE_DATA with a "
            "folder mnist of them, or --data digits"
        ) from None
    lacking = [split for split in ("train", "test") if split not in splits]
    if lacking:
        raise UserError(f"{name}: no split {lacking[0]!r}; splits: {', '.join(splits)}")
    train, test = (_decoded(splits[split], f"{name}, {split}") for split in ("train", "test"))
    canonical = is_mnist([*train, *test])
    title = name.split("/")[1]
    stated = splits["train"].info.license or "as the dataset's card says"
    return _images(
        title,
        train,
        test,
        f"huggingface.co/datasets/{name}, {commit}{_about(title, canonical)}",
        _MNIST_LICENCE if canonical else stated,
        where=name,
    )


def _hub_splits(config: DatasetConfig) -> tuple[datasets.DatasetDict, str]:
    """Every split, and which commit it is of."""
    import datasets

    path = f"hf://datasets/{config.hub}"
    with hub.quiet():
        commit = hub.latest_commit(config)
        try:
            if commit is not None:
                return datasets.load_dataset(path, revision=commit), f"commit {commit[:7]}"
            with hub.offline():
                return datasets.load_dataset(path), "from the cache"
        except Exception as error:
            if "Config name is missing" in str(error):
                raise UserError(
                    f"{config.hub}: has several subsets; only a dataset with one can be read"
                ) from None
            if commit is not None or not isinstance(error, OSError):
                raise hub.problem(config, error) from None
    forbidden = datasets.config.HF_HUB_OFFLINE
    why = "may not be asked (HF_HUB_OFFLINE)" if forbidden else "cannot be reached"
    raise NotOnDiskError(f"{config.hub}: not on this disk, and the Hugging Face Hub {why}")


def _decoded(split: datasets.Dataset, where: str) -> _Labelled:
    """The images of a split as grey pixels, and their labels."""
    import datasets

    columns = split.column_names
    for column in ("image", "label"):
        if column not in columns:
            raise UserError(f"{where}: no column {column!r}; columns: {', '.join(columns)}")
    if not isinstance(split.features["image"], datasets.Image):
        raise UserError(f"{where}: column 'image' holds no images")
    if len(split) == 0:
        raise UserError(f"{where}: no images")
    labels = np.asarray(split["label"][:])
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: column 'label' should hold a class number in every row")
    pixels: list[np.ndarray] = []
    try:
        for image in split["image"]:
            pixels.append(_grey(image, f"{where}: row {len(pixels)}"))
    except OSError:
        raise UserError(f"{where}: row {len(pixels)}: damaged image") from None
    for row, image in enumerate(pixels):
        if image.shape != pixels[0].shape:
            raise UserError(
                f"{where}: row {row}: {_size(image)} pixels, and row 0 has {_size(pixels[0])}; all "
                "should have one size"
            )
    return _Labelled(np.array(pixels), labels)


def _grey(image: PIL.Image.Image | None, where: str) -> np.ndarray:
    """uint8 [height, width]"""
    if image is None:
        raise UserError(f"{where}: no image")
    if image.mode.startswith(("I", "F")):
        # Pillow would cut the values off at 255.
        raise UserError(f"{where}: more than 8 bits a pixel (mode {image.mode}), 8 were expected")
    return np.asarray(image.convert("L"))


def _images(
    name: str,
    train: _Labelled,
    test: _Labelled,
    source: str,
    licence: str,
    *,
    where: str = "",
    white: int = 255,
) -> Images:
    """Check what was read, and scale it: 0 becomes -0.5 and ``white`` 0.5."""
    _check(where or name, train, test)
    scaled = (np.arange(white + 1) / white - 0.5).astype(np.float32)
    train_images, test_images = (scaled[part.pixels][:, np.newaxis] for part in (train, test))
    train_labels, test_labels = (part.labels.astype(np.int64) for part in (train, test))
    digest = hashlib.sha256()
    for array in (train_images, train_labels, test_images, test_labels):
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return Images(
        name=name,
        train=train_images,
        train_labels=train_labels,
        test=test_images,
        test_labels=test_labels,
        source=source,
        licence=licence,
        content_hash=digest.hexdigest(),
    )


def _check(where: str, train: _Labelled, test: _Labelled) -> None:
    for split, (pixels, labels) in (("training", train), ("test", test)):
        if len(pixels) != len(labels):
            raise UserError(
                f"{where}: {len(pixels):,} {split} images but {len(labels):,} labels; each image "
                "should have one"
            )
        if labels.min() < 0:
            row = int(np.argmin(labels))
            raise UserError(f"{where}: {split} image {row} has no label ({labels[row]})")
    height, width = train.pixels.shape[1:]
    if (height, width) != test.pixels.shape[1:]:
        raise UserError(
            f"{where}: training images have {_size(train.pixels)} pixels and test images "
            f"{_size(test.pixels)}; they should have one size"
        )
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"{where}: images have {_size(train.pixels)} pixels; the network needs "
            f"{SMALLEST_SIDE} or more on each side"
        )
    if train.labels.max() >= MOST_CLASSES:
        raise UserError(
            f"{where}: training label {train.labels.max()}; class numbers below {MOST_CLASSES:,} "
            "were expected"
        )
    classes = np.unique(train.labels)
    if len(classes) == 1:
        raise UserError(
            f"{where}: every training label is {classes[0]}; a probe needs at least two classes"
        )
    unknown = np.setdiff1d(test.labels, classes)
    if len(unknown):
        raise UserError(f"{where}: test label {unknown[0]} is not among the training labels")


def _about(name: str, canonical: bool) -> str:
    """What ``source`` says of the content, where it is MNIST's or is called so."""
    if canonical:
        return "; the content is that of the canonical MNIST files"
    return "; the content is not that of the canonical MNIST files" if name == "mnist" else ""


def _size(pixels: np.ndarray) -> str:
    return " × ".join(str(side) for side in pixels.shape[-2:])
