"""Labelled grey images: bundled digits, a folder of IDX files, or a dataset on the Hub."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmprobe.config.load import validated
from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets import hub
from llmprobe.ground.errors import NotOnDiskError, UserError, suggestion
from llmprobe.ground.files import existing

if TYPE_CHECKING:
    import datasets

MNIST_CONTENT = "a8e4da5caae9401b5fc19cebd8931262a7c56eb2b1ce44db151a3db14a7c14c9"
"""``Images.content_hash`` of MNIST as published, wherever it was read from."""

MNIST_ON_HUB = ("ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c")
"""Dataset and commit."""

IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip
"""What a folder holds: training images and labels, test images and labels."""

SMALLEST_SIDE = 8
"""The fewest pixels on a side, since the network halves each side twice."""

MOST_CLASSES = 1000
"""The network has an output for each class number up to the largest."""

FEWEST_OF_A_CLASS = 4
"""The fewest training images of a class, since a probe's penalty is chosen in that many folds."""

FEWEST_TESTED = 20
"""The fewest test images: labels are encoded in portions, and fewer give no useful interval."""


@dataclass(frozen=True)
class Images:
    """Labelled grey images, with a test set of their own."""

    name: str
    """``"digits"``, ``"mnist"``, or what the folder or the dataset on the Hub is called."""
    train: np.ndarray
    """Grey values from -0.5, black, to 0.5, white. float32 [n, 1, height, width]"""
    train_labels: np.ndarray
    """Class numbers, not negative. int64 [n]"""
    test: np.ndarray
    """As ``train``. float32 [m, 1, height, width]"""
    test_labels: np.ndarray
    """Class numbers that are in ``train_labels`` too. int64 [m]"""
    source: str
    """Where the images come from, in words."""
    licence: str

    @cached_property
    def content_hash(self) -> str:
        """The sha256 of the four arrays, as hexadecimal digits."""
        digest = hashlib.sha256()
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    @property
    def classes(self) -> int:
        """The number of outputs that a network needs: the largest class number plus 1."""
        return int(self.train_labels.max()) + 1

    def for_probes(self, train: int, test: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw at most so many training and test images at random, keeping the classes' shares.

        Returns
        -------
        Images float32 [n, 1, height, width], labels int64 [n], and which images are scored, bool
        [n]: the test images, which come last.

        Raises
        ------
        UserError
            A class has too few of the drawn training images, or there are too few test images.
        """
        if len(self.test) < FEWEST_TESTED:
            raise UserError(
                f"{self.name}: {len(self.test)} test images; {FEWEST_TESTED} or more are needed"
            )
        fitted, scored = _drawn(self.train_labels, train), _drawn(self.test_labels, test)
        n_of = np.bincount(self.train_labels[fitted], minlength=self.classes)
        scarcest = min(np.unique(self.train_labels), key=lambda label: n_of[label])
        if n_of[scarcest] < FEWEST_OF_A_CLASS:
            raise UserError(
                f"{self.name}: class {scarcest} has {n_of[scarcest]} of the {len(fitted):,} "
                f"training images on which probes are fitted; {FEWEST_OF_A_CLASS} or more of each "
                "class are needed"
            )
        return (
            np.concatenate([self.train[fitted], self.test[scored]]),
            np.concatenate([self.train_labels[fitted], self.test_labels[scored]]),
            np.repeat([False, True], [len(fitted), len(scored)]),
        )


def _drawn(labels: np.ndarray, most: int) -> np.ndarray:
    """Draw rows of each class at random: files may be sorted by class, or by source as MNIST's."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - (sizes.cumsum() - sizes)[labels[order]]
    first = np.argsort((rank + 0.5) / sizes[labels[order]], kind="stable")[:most]
    return np.sort(order[first])


def settled(data: str) -> str:
    """Return ``data`` in a form that means the same in any working folder.

    "auto" becomes "digits" or "mnist", a folder its absolute path; all else stays as it is.
    """
    if data == "auto":
        return "digits" if _own_mnist() is None else "mnist"
    folder = None if data in ("digits", "mnist") else existing(data)
    return data if folder is None else str(folder)


def load_images(data: str = "auto") -> Images:
    """Read images by name, from a folder, or from the Hugging Face Hub.

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
          ``train`` and ``test``; colours become grey. Write ``"hub:owner/name"`` where there is a
          folder of that name.

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
    folder = _own_mnist() if data == "mnist" else existing(data)
    if folder is not None:
        return _from_folder(folder, "mnist" if data == "mnist" else folder.name)
    if data == "mnist":
        return _from_hub(*MNIST_ON_HUB)
    name = data.removeprefix("hub:")
    if re.fullmatch(r"[^/\s.~][^/\s]*/[^/\s]+", name):
        return _from_hub(name)
    hint = suggestion(data, ("auto", "digits", "mnist"))
    raise UserError(f"{data}: no such folder, and no id on the Hub (owner/name) either; {hint}")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not. -> uint8, of so many dimensions

    The format is that of LeCun, Cortes and Burges, *The MNIST database of handwritten digits*: two
    zero bytes, one for the type, one for the number of dimensions, the size of each as a big-endian
    32-bit integer, then the values, the last dimension fastest.

    Raises
    ------
    UserError
        The file cannot be read, is not such a file, or is shorter or longer than its header says.
    """
    magic = bytes([0, 0, 8, dimensions])
    try:
        content = path.read_bytes()
        # By its first bytes, not its name: browsers may unpack a file and keep the .gz.
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        if not content.startswith(magic):
            raise ValueError(f"it begins with {content[:4].hex(' ') or 'nothing'}")
        sizes = np.frombuffer(content, ">u4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + sizes.nbytes).reshape(sizes)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        kind = "labels" if dimensions == 1 else "images"
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read as an IDX file of {kind}, which begins with "
            f"{magic.hex(' ')}: {reason}"
        ) from None


def _digits() -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundled = load_digits()
    train, test, train_labels, test_labels = train_test_split(
        bundled.images.astype(np.uint8), bundled.target,
        test_size=1 / 3, stratify=bundled.target, random_state=0,
    )  # fmt: skip
    source = (
        "scikit-learn's load_digits, which is the test set of Optical Recognition of Handwritten "
        "Digits (Alpaydin and Kaynak 1998, UCI Machine Learning Repository)"
    )
    arrays = train, train_labels, test, test_labels
    return _images("digits", arrays, source, "CC BY 4.0", white=16)


def _own_mnist() -> Path | None:
    """Return the user's folder of MNIST files, if there is one."""
    data = os.environ.get("LLMPROBE_DATA")
    folder = Path(data).expanduser() / "mnist" if data else None
    return folder if folder is not None and folder.is_dir() else None


def _from_folder(folder: Path, name: str) -> Images:
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; the folder with the four IDX files was expected")
    arrays = []
    for file in IDX_FILES:
        # Gzipped or not; some write a dot for the hyphen before idx.
        path = min(folder.glob(f"{file.replace('-idx', '?idx')}*"), default=None)
        if path is None:
            raise UserError(
                f"{folder}: no file {file}; .gz at the end, and a dot for the hyphen before idx, "
                "are accepted too"
            )
        arrays.append(read_idx(path, 3 if "images" in file else 1))
    licence = "not stated in the files"
    return _images(name, arrays, f"IDX files in {folder}", licence, where=str(folder))


def _from_hub(name: str, revision: str | None = None) -> Images:
    import datasets

    config = validated(DatasetConfig, {"hub": name, "revision": revision}, f"--data {name}")
    try:
        with hub.quiet():
            commit = hub.latest_commit(config)
            with nullcontext() if commit else hub.offline():
                splits = datasets.load_dataset(
                    f"hf://datasets/{name}", split=["train", "test"], revision=commit
                )
    except UserError:
        raise
    except Exception as error:
        problem = hub.problem(config, error)
        if commit is None and isinstance(error, OSError):
            problem = NotOnDiskError(
                f"{name}: not on this disk, and the Hugging Face Hub cannot be reached, or may not "
                "be asked (HF_HUB_OFFLINE)"
            )
        if isinstance(problem, NotOnDiskError):
            problem = NotOnDiskError(
                f"{problem}; ways without it: --data FOLDER with four IDX files, LLMPROBE_DATA "
                "with a folder mnist of them, or --data digits"
            )
        raise problem from None
    source = f"huggingface.co/datasets/{name}, " + (
        f"commit {commit[:7]}" if commit else "from the cache"
    )
    licence = splits[0].info.license or "as the dataset's card says"
    train, test = splits
    arrays = [*_decoded(train, f"{name}, train"), *_decoded(test, f"{name}, test")]
    return _images(name.split("/")[1], arrays, source, licence, where=name)


def _decoded(split: datasets.Dataset, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split as grey pixels [n, height, width], and their labels [n]."""
    import datasets

    labels = np.asarray(split["label"][:] if "label" in split.column_names else [])
    if not isinstance(split.features.get("image"), datasets.Image) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where}: needs a column image with an image and a column label with a class number "
            f"in every row; columns: {', '.join(split.column_names)}"
        )
    pixels: list[np.ndarray] = []
    try:
        for picture in split["image"]:
            # Pillow would cut deeper values off at 255.
            if picture is None or picture.mode.startswith(("I", "F")):
                raise OSError
            pixels.append(np.asarray(picture.convert("L")))
    except OSError:
        raise UserError(
            f"{where}: row {len(pixels)}: no image, a damaged one, or more than 8 bits a pixel"
        ) from None
    if len({values.shape for values in pixels}) != 1:
        raise UserError(f"{where}: one or more images are needed, all of one size")
    return np.array(pixels), labels


def _images(
    name: str, arrays: Sequence[np.ndarray], source: str, licence: str, *,
    where: str = "", white: int = 255,
) -> Images:  # fmt: skip
    """Check what was read, and scale it: 0 becomes -0.5 and ``white`` 0.5.

    Parameters
    ----------
    arrays
        Training images and labels, test images and labels: grey values, uint8 [n, height, width],
        and class numbers, integers [n].
    """
    train, train_labels, test, test_labels = arrays
    for problem in _problems(train, train_labels, test, test_labels):
        raise UserError(f"{where or name}: {problem}")
    scaled = (np.arange(white + 1) / white - 0.5).astype(np.float32)
    images = Images(
        name,
        scaled[train][:, np.newaxis],
        train_labels.astype(np.int64),
        scaled[test][:, np.newaxis],
        test_labels.astype(np.int64),
        source,
        licence,
    )
    canonical = images.content_hash == MNIST_CONTENT
    if canonical:
        licence = "none stated by its authors; often given as CC BY-SA 3.0, on the Hub as MIT"
    if canonical or name == "mnist":
        source += f"; the content is {'' if canonical else 'not '}that of the canonical MNIST files"
    return replace(images, source=source, licence=licence)


def _problems(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Iterator[str]:
    """Yield why images and labels cannot be used in an experiment."""
    for split, n, m in (
        ("training", len(train), len(train_labels)),
        ("test", len(test), len(test_labels)),
    ):
        if n != m:
            yield f"{n:,} {split} images but {m:,} labels; each image should have one"
        if not n:
            yield f"no {split} images"
    size, test_size = (" × ".join(map(str, pixels.shape[1:])) for pixels in (train, test))
    if size != test_size:
        yield f"training images of {size} pixels and test images of {test_size}; one size is needed"
    if min(train.shape[1:]) < SMALLEST_SIDE:
        yield f"images of {size} pixels; the network needs {SMALLEST_SIDE} or more on each side"
    classes = np.unique(train_labels)
    for label in classes[(classes < 0) | (classes >= MOST_CLASSES)]:
        yield f"training label {label}; class numbers from 0 to {MOST_CLASSES - 1} were expected"
    if len(classes) == 1:
        yield f"every training label is {classes[0]}; a probe needs at least two classes"
    for label in np.setdiff1d(test_labels, classes):
        yield f"test label {label} is not among the training labels"
