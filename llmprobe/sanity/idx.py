"""IDX files, the format in which MNIST and its likes are published."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmprobe.ground.errors import UserError

_FILES = {
    "training images": "train-images-idx3-ubyte",
    "training labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
"""What a folder holds, under the names that MNIST's files have."""

_MNIST = (
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
)
"""The md5 of each of the four, uncompressed."""

_UNSIGNED_BYTES = 0x08
_OTHER_TYPES = {
    0x09: "signed bytes",
    0x0B: "16-bit integers",
    0x0C: "32-bit integers",
    0x0D: "32-bit floats",
    0x0E: "64-bit floats",
}
_DIMENSIONS = {"images": 3, "labels": 1}


def read_folder(folder: Path) -> list[np.ndarray]:
    """Training images and labels, test images and labels.
    -> uint8 [n, height, width], [n], [m, height, width], [m], or of other counts if they are wrong

    Raises
    ------
    UserError
        It is no folder; a file is missing, cannot be read (see ``read_idx``), or holds labels where
        images should be, or images where labels should be.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {problem}; the folder with the four IDX files was expected")
    paths = {part: _path(folder, name) for part, name in _FILES.items()}
    missing = [f"{part} ({_FILES[part]})" for part, path in paths.items() if path is None]
    if missing:
        raise UserError(
            f"{folder}: no file with the {', nor with the '.join(missing)}; .gz at the end, and a "
            "dot for the hyphen before idx, are right too"
        )
    return [_of_kind(path, part.split()[1]) for part, path in paths.items() if path is not None]


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, gzipped or not. -> uint8, as many dimensions as the file says

    The format is that of LeCun, Cortes and Burges, *The MNIST database of handwritten digits*: two
    zero bytes, one for the type, one for the number of dimensions, the size of each as a big-endian
    32-bit integer, then the values, the last dimension fastest.

    Raises
    ------
    UserError
        There is no such file; it is empty, damaged, no IDX file, or not of unsigned bytes; it is
        shorter or longer than its header says.
    """
    content = _uncompressed(path)
    if not content:
        raise UserError(f"{path}: is empty; an IDX file was expected")
    # No array of NumPy's has more than 64 dimensions.
    if content[:2] != b"\0\0" or len(content) < 4 or not 1 <= content[3] <= 64:
        raise UserError(
            f"{path}: not an IDX file: begins with the bytes {content[:4].hex(' ')}; one of images "
            "begins with 00 00 08 03, one of labels with 00 00 08 01"
        )
    kind, dimensions = content[2], content[3]
    if kind != _UNSIGNED_BYTES:
        what = _OTHER_TYPES.get(kind, "an unknown type")
        raise UserError(f"{path}: holds {what} (0x{kind:02x}); unsigned bytes (0x08) were expected")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise UserError(f"{path}: is cut off: {len(content)} bytes, its header alone has {start}")
    # As Python's integers, since the product of damaged sizes overflows NumPy's.
    sizes = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    shape = " × ".join(str(size) for size in sizes)
    if 0 in sizes:
        raise UserError(f"{path}: holds nothing ({shape} values)")
    expected = start + math.prod(sizes)
    if len(content) != expected:
        problem = "is cut off" if len(content) < expected else "has bytes after its end"
        raise UserError(
            f"{path}: {problem}: {len(content):,} bytes, {expected:,} were expected for "
            f"{shape} values and their header"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def is_mnist(arrays: Sequence[np.ndarray]) -> bool:
    """Whether IDX files of these four would be those of MNIST, byte for byte."""
    return tuple(_md5(array) for array in arrays) == _MNIST


def _uncompressed(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        # By its first bytes and not its name: browsers unpack a file and keep the .gz.
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _path(folder: Path, name: str) -> Path | None:
    """The first that is there of the ways to write a file's name."""
    dotted = name.replace("-idx", ".idx")
    paths = (folder / way for way in (name, f"{name}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in paths if path.is_file()), None)


def _of_kind(path: Path, kind: str) -> np.ndarray:
    """The array of a file that should hold "images" or "labels"."""
    array = read_idx(path)
    if array.ndim == _DIMENSIONS[kind]:
        return array
    dimensions = "1 dimension" if array.ndim == 1 else f"{array.ndim} dimensions"
    for other in _DIMENSIONS:
        if array.ndim == _DIMENSIONS[other]:
            raise UserError(
                f"{path}: holds {other} ({dimensions}), {kind} were expected: the files may be "
                "swapped"
            )
    raise UserError(f"{path}: holds an array of {dimensions}; {kind} have {_DIMENSIONS[kind]}")


def _md5(array: np.ndarray) -> str:
    header = bytes([0, 0, _UNSIGNED_BYTES, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
