"""Weights as torch saves them (.bin), read without running code and written as safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.ground.files import require_space

INDEX = "pytorch_model.bin.index.json"


def torch_files(folder: Path, where: str) -> list[Path]:
    """Return the .bin files of a model's weights, in order; an empty list if there are none.

    Raises
    ------
    UserError
        Their index is damaged, or names other files than .bin files beside it.
    """
    index = folder / INDEX
    if not index.is_file():
        return [path for path in [folder / "pytorch_model.bin"] if path.is_file()]
    with foreign_errors(f"{index}: not an index of weights"):
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted(set(map(str, named)))
    for name in names:
        if Path(name).name != name or not name.endswith(".bin") or not (folder / name).is_file():
            raise UserError(
                f"{where}: {INDEX} names {name!r:.100}, which is no .bin file beside it"
            )
    return [folder / name for name in names]


def convert_torch_files(folder: Path, target: Path, where: str) -> None:
    """Convert the .bin weights of a folder to safetensors, and copy the model's other files.

    Raises
    ------
    UserError
        A file is damaged, or holds something else than tensors by name.
    """
    files = torch_files(folder, where)
    require_space(target.parent, sum(file.stat().st_size for file in files), "converting weights")
    target.mkdir()
    placed: dict[str, str] = {}
    for number, file in enumerate(files, start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weights = _read(file, where)
        # Each gets memory of its own: two names can share it in .bin files, not in safetensors.
        plain = {key: value.detach().clone().contiguous() for key, value in weights.items()}
        save_file(plain, target / name, metadata={"format": "pt"})
        placed |= dict.fromkeys(plain, name)
    index = {"metadata": {}, "weight_map": placed}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for file in folder.iterdir():
        is_more = file.suffix in (".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
        if is_more and file.is_file() and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


def _read(file: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors in a file by their names."""
    with foreign_errors(f"{where}: {file.name} cannot be read without running code"):
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    weights = content if isinstance(content, dict) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{where}: {file.name} holds no weights by name")
    return weights
