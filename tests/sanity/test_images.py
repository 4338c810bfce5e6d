"""Images from scikit-learn, from folders of IDX files, and from the Hub (made in memory)."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from llmprobe.ground.errors import NotOnDiskError, UserError
from llmprobe.sanity import images as images_module
from llmprobe.sanity.images import MNIST_CONTENT, MNIST_ON_HUB, load_images, read_idx

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MNIST = Path(os.environ.get("LLMPROBE_DATA", "/no/such")) / "mnist"
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""

RANDOM = np.random.default_rng(0)
ARRAYS = {
    TRAIN_IMAGES: RANDOM.integers(0, 256, (6, 8, 9), np.uint8),
    TRAIN_LABELS: np.array([2, 0, 1, 1, 0, 2], np.uint8),
    TEST_IMAGES: RANDOM.integers(0, 256, (3, 8, 9), np.uint8),
    TEST_LABELS: np.array([1, 2, 0], np.uint8),
}
ARRAYS[TRAIN_IMAGES][0, 0, :3] = (0, 255, 51)


def written(array: np.ndarray, kind: int = 8) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def fill(folder: Path, **changed: np.ndarray) -> Path:
    """A folder with the four files, some with other arrays: ``TRAIN_LABELS=…``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (ARRAYS | {globals()[key]: array for key, array in changed.items()}).items():
        (folder / name).write_bytes(written(array))
    return folder


def problem(data: str | Path) -> str:
    """What is said of a folder or file, without the path that it begins with."""
    with pytest.raises(UserError) as caught:
        load_images(str(data))
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(data))
    return said[len(str(data)) :].lstrip("/:").strip()


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMPROBE_DATA", raising=False)


@pytest.fixture
def on_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[datasets.DatasetDict], list[Any]]:
    """``on_hub(splits)``: the Hub has them. -> what it is asked for, as it happens"""

    def serve(splits: datasets.DatasetDict) -> list[Any]:
        asked: list[Any] = []

        def info(*_: object, revision: str | None, timeout: float) -> SimpleNamespace:
            assert timeout > 0
            return SimpleNamespace(sha=revision or "c0ffee0" + "0" * 33)

        def load(path: str, split: list[str], revision: str) -> list[datasets.Dataset]:
            asked.append((path, revision))
            for name in split:
                if name not in splits:
                    raise ValueError(f"Unknown split {name!r}. Should be one of {list(splits)}.")
            return [splits[name] for name in split]

        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return serve


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


def split(pictures: np.ndarray | list[Any], labels: np.ndarray | list[Any]) -> datasets.Dataset:
    """Of arrays, Pillow's images, encoded bytes or None."""
    images = [
        PIL.Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        for picture in pictures
    ]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def splits(**changed: datasets.Dataset) -> datasets.DatasetDict:
    train = split(ARRAYS[TRAIN_IMAGES], ARRAYS[TRAIN_LABELS])
    test = split(ARRAYS[TEST_IMAGES], ARRAYS[TEST_LABELS])
    return datasets.DatasetDict({"train": train, "test": test} | changed)


def test_the_digits_are_all_of_scikit_learns_each_on_one_side() -> None:
    images = load_images("digits")
    assert (images.train.shape, images.test.shape) == ((1198, 1, 8, 8), (599, 1, 8, 8))
    both = np.concatenate([images.train, images.test]).reshape(-1, 64)
    labels = np.concatenate([images.train_labels, images.test_labels])
    bundled = load_digits()

    def in_order(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = np.column_stack([pixels, labels])
        return rows[np.lexsort(rows.T)]

    expected = in_order(bundled.data / 16 - 0.5, bundled.target)
    np.testing.assert_array_equal(in_order(both, labels), expected)


def test_two_thirds_of_each_digit_are_for_training() -> None:
    images = load_images("digits")
    train, test = np.bincount(images.train_labels), np.bincount(images.test_labels)
    np.testing.assert_allclose(train, (train + test) * 2 / 3, atol=1)


def test_the_digits_are_split_the_same_way_each_time() -> None:
    first = load_images("digits")
    np.random.seed(5)
    assert load_images("digits").content_hash == first.content_hash


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("before_idx", ["-", "."])
def test_idx_files_are_read_exactly_under_each_name(
    tmp_path: Path, suffix: str, before_idx: str
) -> None:
    for name, array in ARRAYS.items():
        content = written(array)
        path = tmp_path / (name.replace("-idx", f"{before_idx}idx") + suffix)
        path.write_bytes(gzip.compress(content) if suffix else content)
    images = load_images(str(tmp_path))
    assert images.name == tmp_path.name
    assert images.source == f"IDX files in {tmp_path}"
    for found, expected in ((images.train, TRAIN_IMAGES), (images.test, TEST_IMAGES)):
        assert found.dtype == np.float32
        exactly = (ARRAYS[expected][:, None] / 255 - 0.5).astype(np.float32)
        np.testing.assert_array_equal(found, exactly)
    for found, expected in ((images.train_labels, TRAIN_LABELS), (images.test_labels, TEST_LABELS)):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, ARRAYS[expected])


def test_black_is_minus_a_half_and_white_a_half(tmp_path: Path) -> None:
    images = load_images(str(fill(tmp_path)))
    assert images.train[0, 0, 0, :3].tolist() == [-0.5, 0.5, np.float32(-0.3)]


def test_a_file_that_was_unpacked_and_kept_its_name_is_read(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / TEST_LABELS).rename(tmp_path / f"{TEST_LABELS}.gz")
    assert load_images(str(tmp_path)).test_labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_an_idx_file_has_as_many_dimensions_as_it_says(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "any").write_bytes(written(array))
    found = read_idx(tmp_path / "any", len(shape))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


def test_the_hash_changes_with_any_pixel_or_label(tmp_path: Path) -> None:
    hashes = {load_images(str(fill(tmp_path))).content_hash}
    for name in ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS"):
        array = ARRAYS[globals()[name]].copy()
        array.flat[-1] = 1 - min(array.flat[-1], 1)
        hashes.add(load_images(str(fill(tmp_path, **{name: array}))).content_hash)
    assert len(hashes) == 5
    assert load_images(str(fill(tmp_path))).content_hash in hashes


def test_the_source_says_whether_the_content_is_mnists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "mnist")
    other = load_images(str(folder))
    assert other.source.endswith("the content is not that of the canonical MNIST files")
    monkeypatch.setattr(images_module, "MNIST_CONTENT", other.content_hash)
    same = load_images(str(folder))
    assert same.source == f"IDX files in {folder}; the content is that of the canonical MNIST files"
    assert same.licence != other.licence


def test_auto_is_mnist_where_it_is_on_this_disk_and_else_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_images().name == "digits"
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path))
    assert load_images().name == "digits"
    (tmp_path / "mnist").touch()
    assert load_images().name == "digits"
    fill(tmp_path / "elsewhere")
    (tmp_path / "mnist").unlink()
    (tmp_path / "mnist").symlink_to(tmp_path / "elsewhere")
    assert load_images().name == load_images("mnist").name == "mnist"
    assert load_images().train.shape == (6, 1, 8, 9)
    assert load_images("digits").name == "digits"


def test_auto_does_not_pass_over_a_damaged_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path))
    (fill(tmp_path / "mnist") / TEST_LABELS).unlink()
    with pytest.raises(UserError, match=f"no file {TEST_LABELS}"):
        load_images()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_names_it_may_have(tmp_path: Path, name: str) -> None:
    (fill(tmp_path) / name).unlink()
    said = problem(tmp_path)
    assert [other in said for other in NAMES] == [other == name for other in NAMES]
    assert said.endswith("; .gz at the end, and a dot for the hyphen before idx, are accepted too")


def cut(content: bytes) -> bytes:
    return content[:-5]


IMAGES = written(ARRAYS[TRAIN_IMAGES])
BAD_FILES: list[tuple[bytes, str]] = [
    (b"", "it begins with nothing"),
    (gzip.compress(b"", mtime=0), "it begins with nothing"),
    (cut(IMAGES), "cannot reshape array of size 427 into shape (6,8,9)"),
    (gzip.compress(cut(IMAGES), mtime=0), "cannot reshape array of size 427"),
    (IMAGES[:13], "buffer is smaller than requested size"),
    (IMAGES + b"12", "cannot reshape array of size 434"),
    # In 64 bits the product of these sizes is 0.
    (b"\0\0\x08\x03" + b"\x80\0\0\0" * 2 + b"\0\0\0\4", ""),
    (b"\0\0\x08\x03" + b"\0" * 4 + b"\xff" * 8, ""),
    (cut(gzip.compress(IMAGES, mtime=0)), "Compressed file ended before"),
    (gzip.compress(IMAGES, mtime=0) + b"more", "Not a gzipped file"),
    (gzip.compress(IMAGES, mtime=0)[:10] + b"\xff" * 99, "Error -3"),
    (b"\x89PNG\r\n", "it begins with 89 50 4e 47"),
    (b"\0\0\x08", "it begins with 00 00 08"),
    (written(ARRAYS[TRAIN_IMAGES], kind=0x0D), "it begins with 00 00 0d 03"),
    (written(ARRAYS[TRAIN_LABELS]), "it begins with 00 00 08 01"),
    (written(np.ones((2, 3), np.uint8)), "it begins with 00 00 08 02"),
]


@pytest.mark.parametrize(("content", "words"), BAD_FILES)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    (fill(tmp_path) / TRAIN_IMAGES).write_bytes(content)
    said = problem(tmp_path)
    expected = f"{TRAIN_IMAGES}: cannot be read as an IDX file of images, which begins with "
    assert said.startswith(f"{expected}00 00 08 03: {words}")


def test_images_where_labels_should_be_are_refused(tmp_path: Path) -> None:
    said = problem(fill(tmp_path, TEST_LABELS=ARRAYS[TEST_IMAGES]))
    assert said == (
        f"{TEST_LABELS}: cannot be read as an IDX file of labels, which begins with 00 00 08 01: "
        "it begins with 00 00 08 03"
    )


def test_a_file_that_is_not_there_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none: cannot be read .*: No such file or directory$"):
        read_idx(tmp_path / "none", 3)
    with pytest.raises(UserError, match=r": cannot be read .*: Is a directory$"):
        read_idx(tmp_path, 3)


BAD_ARRAYS: list[tuple[dict[str, np.ndarray], str]] = [
    (
        {"TRAIN_LABELS": ARRAYS[TEST_LABELS]},
        "6 training images but 3 labels; each image should have one",
    ),
    ({"TEST_IMAGES": ARRAYS[TRAIN_IMAGES]}, "6 test images but 3 labels"),
    (
        {"TEST_IMAGES": ARRAYS[TEST_IMAGES].transpose(0, 2, 1)},
        "training images of 8 × 9 pixels and test images of 9 × 8; one size is needed",
    ),
    (
        {name: ARRAYS[globals()[name]][:, :, :7] for name in ("TRAIN_IMAGES", "TEST_IMAGES")},
        "images of 8 × 7 pixels; the network needs 8 or more on each side",
    ),
    (
        {"TRAIN_LABELS": np.full(6, 4, np.uint8)},
        "every training label is 4; a probe needs at least two classes",
    ),
    (
        {"TEST_LABELS": np.array([1, 7, 0], np.uint8)},
        "test label 7 is not among the training labels",
    ),
]


@pytest.mark.parametrize(("changed", "words"), BAD_ARRAYS)
def test_files_that_do_not_go_together_are_refused(
    tmp_path: Path, changed: dict[str, np.ndarray], words: str
) -> None:
    assert problem(fill(tmp_path, **changed)).startswith(words)


def test_what_is_neither_a_name_nor_a_folder_nor_on_the_hub_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in problem(tmp_path / "none")
    assert "no such folder" in problem("~/no-such-folder")
    assert problem("digts").endswith("; did you mean 'digits'?")
    assert problem("nothing").endswith("; known: auto, digits, mnist")
    file = fill(tmp_path) / TEST_LABELS
    assert problem(file) == "is a file; the folder with the four IDX files was expected"


def test_mnist_comes_from_the_hub_at_a_fixed_commit(
    on_hub: Callable[[datasets.DatasetDict], list[Any]], tmp_path: Path
) -> None:
    asked = on_hub(splits())
    images = load_images("mnist")
    name, commit = MNIST_ON_HUB
    assert asked == [(f"hf://datasets/{name}", commit)]
    assert images.name == "mnist"
    assert images.source.startswith(f"huggingface.co/datasets/{name}, commit {commit[:7]}; ")
    assert images.content_hash == load_images(str(fill(tmp_path))).content_hash


@pytest.mark.parametrize("data", ["lab/pictures", "hub:lab/pictures"])
def test_any_images_of_the_hub_are_read_by_id(
    on_hub: Callable[[datasets.DatasetDict], list[Any]],
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = on_hub(splits())
    images = load_images(data)
    assert [path for path, _ in asked] == ["hf://datasets/lab/pictures"]
    assert (images.name, images.train.shape) == ("pictures", (6, 1, 8, 9))
    assert images.source == "huggingface.co/datasets/lab/pictures, commit c0ffee0"


def test_a_folder_goes_before_the_hub_unless_it_is_said(
    on_hub: Callable[[datasets.DatasetDict], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "lab" / "pictures")
    asked = on_hub(splits())
    load_images("lab/pictures")
    assert not asked
    load_images("hub:lab/pictures")
    assert asked


def test_colours_become_grey_and_masks_black_and_white(
    on_hub: Callable[[datasets.DatasetDict], list[Any]],
) -> None:
    red = PIL.Image.new("RGB", (8, 8), (255, 0, 0))
    mask = PIL.Image.new("1", (8, 8), 1)
    on_hub(splits(train=split([red, mask], [0, 1]), test=split([red], [0])))
    images = load_images("lab/pictures")
    # The luma of ITU-R 601: red has 0.299 of white.
    assert np.unique(images.train[0]) == pytest.approx(0.299 - 0.5, abs=1 / 255)
    assert np.unique(images.train[1]) == 0.5


PICTURES, LABELS = ARRAYS[TRAIN_IMAGES], ARRAYS[TRAIN_LABELS]
DEEP = PIL.Image.fromarray(np.full((8, 9), 999, np.uint16))
NEEDED = "needs a column image with an image and a column label with a class number in every row"
ROW_5 = ", train: row 5: no image, a damaged one, or more than 8 bits a pixel"
BAD_SPLITS: list[tuple[datasets.DatasetDict, str]] = [
    (
        datasets.DatasetDict({"train": splits()["train"]}),
        ": `datasets` cannot load it: Unknown split 'test'. Should be one of ['train'].",
    ),
    (
        splits(test=splits()["test"].rename_column("label", "digit")),
        f", test: {NEEDED}; columns: image, digit",
    ),
    (splits(train=splits()["train"].remove_columns("image")), f", train: {NEEDED}"),
    (
        splits(test=datasets.Dataset.from_dict({"image": ["a"], "label": [1]})),
        f", test: {NEEDED}",
    ),
    (splits(test=split(PICTURES[:2], [1, None])), f", test: {NEEDED}"),
    (
        splits(train=split(PICTURES, [0, 1, -1, 0, 1, 2])),
        ": training label -1; class numbers from 0 to 999 were expected",
    ),
    (splits(train=split([*PICTURES[:5], None], LABELS)), ROW_5),
    (splits(train=split([*PICTURES[:5], DEEP], LABELS)), ROW_5),
    (splits(train=split([*PICTURES[:5], {"bytes": b"GIF", "path": None}], LABELS)), ROW_5),
    (
        splits(train=split([*PICTURES[:5], PICTURES[5].T.copy()], LABELS)),
        ", train: one or more images are needed, all of one size",
    ),
]


@pytest.mark.parametrize(("bad", "words"), BAD_SPLITS)
def test_a_dataset_of_the_hub_without_what_is_needed_is_refused(
    on_hub: Callable[[datasets.DatasetDict], list[Any]], bad: datasets.DatasetDict, words: str
) -> None:
    on_hub(bad)
    with pytest.raises(UserError) as caught:
        load_images("lab/pictures")
    assert str(caught.value).startswith(f"lab/pictures{words}")


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_cannot_be_reached_leaves_three_ways(
    monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        assert not offline, "the Hub was asked"
        raise ConnectionError

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(NotOnDiskError) as caught:
        load_images("mnist")
    assert str(caught.value) == (
        "ylecun/mnist: not on this disk, and the Hugging Face Hub cannot be reached, or may not be "
        "asked (HF_HUB_OFFLINE); ways without it: --data FOLDER with four IDX files, "
        "LLMPROBE_DATA with a folder mnist of them, or --data digits"
    )


def test_a_download_that_fails_leaves_the_same_ways(
    on_hub: Callable[[datasets.DatasetDict], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_hub(splits())

    def cut_off(*_: object, **__: object) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", cut_off)
    with pytest.raises(NotOnDiskError, match=r"could not be downloaded: reset by peer; ways "):
        load_images("mnist")


@pytest.mark.parametrize("offline", [False, True])
def test_what_the_cache_has_is_read_without_the_hub(
    monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError

    def load(path: str, split: list[str], revision: None) -> list[datasets.Dataset]:
        assert (path, datasets.config.HF_HUB_OFFLINE) == ("hf://datasets/lab/pictures", True)
        assert revision is None
        return [splits()[name] for name in split]

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "lab/pictures, from the cache" in load_images("lab/pictures").source


def test_probes_see_a_part_of_each_class_in_its_share_and_from_everywhere() -> None:
    images = load_images("digits")
    by_class = replace(
        images,
        train=images.train[np.argsort(images.train_labels, kind="stable")],
        train_labels=np.sort(images.train_labels),
    )
    for given in (images, by_class):
        inputs, labels, test = given.for_probes(300, 200)
        assert test.tolist() == [False] * 300 + [True] * 200
        for whole, part in ((given.train_labels, ~test), (given.test_labels, test)):
            share = np.bincount(whole) * part.sum() / len(whole)
            assert np.abs(np.bincount(labels[part]) - share).max() <= 1
    drawn = [image.tobytes() for image in inputs[test]]
    assert len(set(drawn)) == 200
    assert set(drawn) <= {image.tobytes() for image in images.test}
    zeros = inputs[test][labels[test] == 0]
    assert not np.array_equal(zeros, images.test[images.test_labels == 0][: len(zeros)])
    all_of_them, *_ = images.for_probes(10**6, 10**6)
    assert np.array_equal(all_of_them, np.concatenate([images.train, images.test]))


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not in a folder mnist of LLMPROBE_DATA")
def test_the_real_mnist_is_canonical() -> None:
    images = load_images(str(MNIST))
    assert images.source.endswith("the content is that of the canonical MNIST files")
    assert images.content_hash == MNIST_CONTENT
    assert (images.train.shape, images.test.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    # The mean that everyone normalises MNIST by.
    assert images.train.mean() + 0.5 == pytest.approx(0.1307, abs=5e-5)


@pytest.mark.skipif(not FASHION.is_dir(), reason="dataset-fashion-mnist of Debian is not installed")
def test_the_fashion_mnist_of_debian_is_read() -> None:
    images = load_images(str(FASHION))
    assert images.name == "fashion-mnist"
    assert (images.train.shape, images.test.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert np.bincount(images.train_labels).tolist() == [6000] * 10
    assert np.bincount(images.test_labels).tolist() == [1000] * 10
    assert images.train.mean() + 0.5 == pytest.approx(0.2860, abs=5e-5)
