"""Hidden states that another engine wrote: files of several kinds, read a layer at a time."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open

from llmprobe.config.schema import ActivationsConfig
from llmprobe.ground.errors import UserError, foreign_errors, suggestion
from llmprobe.ground.files import digest, existing, sha256

KINDS = ".npz, .npy, .safetensors, .parquet, Zarr, or a folder of vLLM's hidden-state files"
_FLOATS = ("float16", "float32", "float64", "bfloat16")
_OF_ZARR = (".zarray", ".zgroup", ".zmetadata", "zarr.json")
"""Files of which a Zarr folder has at least one."""


@dataclass(frozen=True)
class Array:
    """An array in a file, of which parts can be read."""

    shape: tuple[int, ...]
    dtype: str
    """As NumPy calls it; also ``bfloat16``."""
    read: Callable[..., np.ndarray]
    """Function of slices of the first axes that returns the part they cut out; without any, all."""


@dataclass(frozen=True)
class Request:
    """What vLLM wrote for one request."""

    name: str
    """Its id: the name of the file without the ending."""
    token_ids: tuple[int, ...]
    states: Array
    """[tokens, layers, d]"""

    def at(self, place: int, first: int = 0) -> np.ndarray:
        """Return the states of the tokens from ``first`` on, at the layer at an index. [tokens, d]

        A negative ``first`` counts from the end.
        """
        first = first if first >= 0 else self.states.shape[0] + first
        cut = self.states.read(slice(first, self.states.shape[0]), slice(place, place + 1))
        return cut[:, 0]


class StatesFile:
    """Hidden states of some rows at some layers, from a file or a folder.

    Parameters
    ----------
    rows
        The numbers of rows that are allowed; they also tell which axis of an array of three
        dimensions has the rows. With ``config.join``, which names the rows, any number is allowed.

    Raises
    ------
    UserError
        There is no such file, its kind is unknown, or it is damaged; it has no layers, or another
        number of rows; its numbers are not floating-point.
    """

    rows: int
    """The number of rows."""
    names: list[str] | None = None
    """The name of each row, of a folder or with ``config.join``. [rows]"""
    requests: list[Request] | None = None
    """The requests in a folder, each with all its tokens. [rows]"""

    def __init__(self, config: ActivationsConfig, rows: Collection[int]) -> None:
        self.config, self.where = config, str(config.path)
        self.path = existing(config.path) or Path(config.path)
        self._layers: dict[int, _Layer] = {}
        if self.path.is_dir() and not any((self.path / name).exists() for name in _OF_ZARR):
            layers = self._of_requests()
        else:
            layers = self._of_arrays(rows)
        for number, layer in layers.items():
            self._layers[number + config.layer_offset] = layer
        if min(self._layers) < 0:
            raise UserError(
                f"{self.where}: with layer_offset {config.layer_offset} there is a layer "
                f"{min(self._layers)}; layers count from 0, which enters the first block"
            )
        self.rows = next(iter(layers.values())).rows
        if not config.join and self.rows not in rows:
            expected = " or ".join(f"{n:,}" for n in sorted(rows))
            raise UserError(
                f"{self.where}: has {self.rows:,} rows where there should be {expected}, one for "
                "each row of the table; where only some were drawn or dropped, `join: COLUMN` "
                "finds theirs"
            )

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the layers, rising."""
        return sorted(self._layers)

    @property
    def dtype(self) -> str:
        """Return the type of the numbers of the first layer."""
        return self._layers[self.layers[0]].dtype

    def width(self, number: int) -> int:
        """Return the number of features of a layer."""
        return self._layers[number].width

    def layer(self, number: int) -> np.ndarray:
        """Return the states of a layer. [rows, d] float32

        Raises
        ------
        UserError
            A number is not finite, or the file is damaged.
        """
        layer = self._layers[number]
        problem = f"{self.where}: layer {number}: cannot be read"
        with foreign_errors(problem), np.errstate(over="ignore"):
            X = np.require(layer.read(), np.float32, ["C", "W"])
            if X.shape != (layer.rows, layer.width):
                raise ValueError(f"shape {X.shape}, expected {(layer.rows, layer.width)}")
        finite = np.isfinite(X).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{self.where}: layer {number}: {(~finite).sum():,} of {len(X):,} rows have values "
                f"that are not finite numbers, the first is row {int(np.argmin(finite)) + 1}"
            )
        return X

    def tokens(self, row: int, number: int) -> np.ndarray:
        """Return the states of all tokens of a request at a layer. [tokens, d] float32"""
        assert self.requests is not None
        return self.requests[row].at(self._layers[number].place).astype(np.float32)

    def _of_requests(self) -> dict[int, _Layer]:
        files = sorted(self.path.glob("*.safetensors"), key=_natural)
        if not files:
            raise UserError(f"{self.where}: no .safetensors file is in it; states are read from "
                            f"{KINDS}")  # fmt: skip
        requests = [_request(file) for file in files]
        _, n_layers, width = shape = requests[0].states.shape
        for file, request in zip(files, requests, strict=True):
            if request.states.shape[1:] != shape[1:]:
                raise UserError(
                    f"{file}: hidden_states of shape {_by(request.states.shape)}, and those of "
                    f"{files[0].name} are {_by(shape)}"
                )
        self.requests, self.names = requests, [request.name for request in requests]

        def last(place: int) -> np.ndarray:
            return np.concatenate([request.at(place, -1) for request in requests])

        return {
            number: _Layer(len(files), width, requests[0].states.dtype, place, partial(last, place))
            for place, number in enumerate(self._numbers(n_layers))
        }

    def _of_arrays(self, rows: Collection[int]) -> dict[int, _Layer]:
        config, arrays = self.config, _open(self.path, self.where)
        if config.join:
            if config.join not in arrays:
                raise UserError(f"{self.where}: has nothing called {config.join!r} to join by; "
                                f"{suggestion(config.join, arrays)}")  # fmt: skip
            with foreign_errors(f"{self.where}: {config.join!r} cannot be read"):
                self.names = [str(name) for name in arrays.pop(config.join).read().tolist()]
            rows = {len(self.names)}
        chosen = _of_layers(arrays, config.key, self.where)
        for name, array in chosen.items():
            if array.dtype not in _FLOATS:
                raise UserError(
                    f"{self.where}: {name!r} has values of type {array.dtype}; hidden states are "
                    "float32, float64, float16 or bfloat16"
                )
        if len(chosen) == 1:
            ((name, array),) = chosen.items()
            if len(array.shape) == 3:
                return self._of_one(name, array, rows)
        return self._of_several(chosen)

    def _of_one(self, name: str, array: Array, rows: Collection[int]) -> dict[int, _Layer]:
        """Return the layers of an array of three dimensions."""
        shape, axis = array.shape, self.config.layer_axis
        if axis is None and shape[0] in rows and shape[1] in rows:
            raise UserError(
                f"{self.where}: {name!r} of shape {_by(shape)} can be [rows, layers, d] or "
                "[layers, rows, d]; say `layer_axis: 1` or `layer_axis: 0`"
            )
        axis = (0 if shape[1] in rows else 1) if axis is None else axis

        def read(place: int) -> np.ndarray:
            cut = (slice(None),) * axis + (slice(place, place + 1),)
            return array.read(*cut).reshape(shape[1 - axis], shape[2])

        return {
            number: _Layer(shape[1 - axis], shape[2], array.dtype, place, partial(read, place))
            for place, number in enumerate(self._numbers(shape[axis]))
        }

    def _of_several(self, chosen: Mapping[str, Array]) -> dict[int, _Layer]:
        """Return the layers of arrays of two dimensions, one for each."""
        if self.config.layers:
            raise UserError(
                f"{self.where}: `layers:` belongs to an array of all layers, and these have their "
                "numbers in their names; `layer_offset` moves them"
            )
        layers: dict[int, _Layer] = {}
        names: dict[int, str] = {}
        for name, array in chosen.items():
            number = _number(name) or 0
            if len(array.shape) != 2 or not array.shape[1]:
                raise UserError(
                    f"{self.where}: {name!r} has shape {_by(array.shape)}; a layer is [rows, d]"
                )
            if number in layers:
                raise UserError(
                    f"{self.where}: {names[number]!r} and {name!r} are both layer {number}; say "
                    "what the names of one kind begin with, as `key: NAME`"
                )
            if layers and (first := next(iter(layers.values()))).rows != array.shape[0]:
                raise UserError(
                    f"{self.where}: {name!r} has {array.shape[0]:,} rows, and "
                    f"{next(iter(names.values()))!r} has {first.rows:,}"
                )
            layers[number] = _Layer(*array.shape, array.dtype, 0, array.read)
            names[number] = name
        return layers

    def _numbers(self, n_layers: int) -> Sequence[int]:
        """Return the numbers of the layers of an array that has them all."""
        numbers = self.config.layers or range(n_layers)
        if len(numbers) != n_layers:
            raise UserError(
                f"{self.where}: has {n_layers} layers, and `layers:` has {len(numbers)} numbers"
            )
        return numbers


def content_digest(path: Path) -> str:
    """Return a hash of all bytes of a file or folder."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest([[str(file.relative_to(path)), sha256(file)] for file in files])


@dataclass(frozen=True)
class _Layer:
    rows: int
    width: int
    dtype: str
    place: int
    """Its index in an array of several layers."""
    read: Callable[[], np.ndarray]


def _of_layers(arrays: Mapping[str, Array], key: str | None, where: str) -> dict[str, Array]:
    """Return the array with all layers, or the arrays with one each.

    Names of the latter begin with ``key``, if there is one, and end in a number.
    """
    if key is not None and key in arrays:
        return {key: arrays[key]}
    several = {
        name: array
        for name, array in arrays.items()
        if name.startswith(key or "") and _number(name) is not None and len(array.shape) > 1
    }
    if several:
        return several
    if key is None:
        ours = {name: array for name, array in arrays.items() if len(array.shape) in (2, 3)}
        if len(ours) == 1:
            return ours
    which = f"of {key!r} " if key else ""
    raise UserError(
        f"{where}: has no layers {which}(arrays whose names end in a number, or one array of all "
        f"layers, named by `key: NAME`); {suggestion(key or 'layer_0', arrays or ['nothing'])}"
    )


def _number(name: str) -> int | None:
    """Return the number that a name ends in."""
    match = re.search(r"(\d{1,6})$", name)
    return int(match[1]) if match else None


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sort names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part)
            for part in re.split(r"(\d+)", file.name)]  # fmt: skip


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _open(path: Path, where: str) -> dict[str, Array]:
    """Return the arrays in a file or Zarr folder, by name."""
    readers = {".npz": _npz, ".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
    if not path.exists():
        raise UserError(f"{where}: there is no such file or folder")
    if path.is_file() and path.suffix.lower() not in readers:
        raise UserError(f"{where}: states are read from {KINDS}")
    with foreign_errors(f"{where}: cannot be read"):
        return readers[path.suffix.lower()](path) if path.is_file() else _zarr(path, where)


def _npz(path: Path) -> dict[str, Array]:
    headers = {(1, 0): np.lib.format.read_array_header_1_0,
               (2, 0): np.lib.format.read_array_header_2_0}  # fmt: skip
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                header = headers[np.lib.format.read_magic(file)](file)
            name = member.removesuffix(".npy")
            arrays[name] = Array(header[0], header[2].name, _npz_member(path, name, header[0]))
    return arrays


def _npz_member(path: Path, name: str, shape: tuple[int, ...]) -> Callable[..., np.ndarray]:
    def load() -> np.ndarray:
        with np.load(path, allow_pickle=False) as archive:
            array: np.ndarray = archive[name]
        return array

    # An array of several layers is unpacked once, not once for each layer.
    load = cache(load) if len(shape) > 2 else load
    return lambda *cut: load()[cut]


def _npy(path: Path) -> dict[str, Array]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return {path.stem: Array(array.shape, array.dtype.name, lambda *cut: np.array(array[cut]))}


def _safetensors(path: Path) -> dict[str, Array]:
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

    def read(name: str, *cut: slice) -> np.ndarray:
        with safe_open(path, "pt") as file:
            tensor = file.get_slice(name)[cut or ...]
        array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return array

    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return {
            name: Array(tuple(part.get_shape()), names.get(part.get_dtype(), part.get_dtype()),
                        partial(read, name))
            for name, part in slices.items()
        }  # fmt: skip


def _request(file: Path) -> Request:
    """Return what vLLM's connector wrote: ``hidden_states`` and ``token_ids``."""
    with foreign_errors(f"{file}: cannot be read"):
        arrays = _safetensors(file)
        if not {"hidden_states", "token_ids"} <= set(arrays):
            raise UserError(
                f"{file}: has no hidden_states and token_ids, as vLLM writes a file of a request"
            )
        states, token_ids = arrays["hidden_states"], arrays["token_ids"].read().ravel().tolist()
        if len(states.shape) != 3 or states.shape[0] != len(token_ids) or 0 in states.shape:
            raise UserError(
                f"{file}: hidden_states of shape {_by(states.shape)} and {len(token_ids)} "
                "token_ids; expected tokens × layers × features, and a token id for each token"
            )
        if states.dtype not in _FLOATS:
            raise UserError(f"{file}: hidden_states has values of type {states.dtype}")
    return Request(file.name.removesuffix(".safetensors"), tuple(token_ids), states)


def _parquet(path: Path) -> dict[str, Array]:
    file = pq.ParquetFile(path)
    n, arrays = file.metadata.num_rows, {}
    for field in file.schema_arrow:
        kind = field.type
        shape: tuple[int, ...] = (n,)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or hasattr(kind, "list_size"):
            first = next(file.iter_batches(1, columns=[field.name])).column(0) if n else []
            shape, kind = (n, len(first[0] or ()) if n else 0), kind.value_type
        name = {"halffloat": "float16", "float": "float32", "double": "float64"}
        read = partial(_parquet_column, path, field.name)
        arrays[field.name] = Array(shape, name.get(str(kind), str(kind)), read)
    return arrays


def _parquet_column(path: Path, name: str) -> np.ndarray:
    column = pq.read_table(path, columns=[name]).column(0)
    if column.null_count:
        raise ValueError(f"{column.null_count} rows of column {name!r} have no value")
    if not hasattr(column.type, "value_type"):
        return np.asarray(column.to_pylist())
    lengths = pc.list_value_length(column).unique().to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"the lists in column {name!r} have {lengths[0]} and {lengths[1]} numbers")
    values = pc.list_flatten(column).combine_chunks()
    if values.null_count:
        raise ValueError(f"{values.null_count} numbers in column {name!r} are missing")
    array: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return array


def _zarr(path: Path, where: str) -> dict[str, Array]:
    if find_spec("zarr") is None:
        raise UserError(f"{where}: a Zarr folder, which needs a library: pip install zarr")
    import zarr

    for name in _OF_ZARR:
        for file in path.rglob(name):
            # A pickle codec would run code from the file.
            if "pickle" in json.dumps(json.loads(file.read_text(encoding="utf-8"))).lower():
                raise UserError(f"{where}: has pickled values, which are never read")

    def array_of(array: Any) -> Array:
        def read(*cut: slice) -> np.ndarray:
            return np.asarray(array[cut or ...])

        return Array(tuple(array.shape), str(array.dtype), read)

    opened: Any = zarr.open(str(path), mode="r")
    if hasattr(opened, "shape"):
        return {path.stem: array_of(opened)}
    return {name: array_of(array) for name, array in opened.arrays()}
