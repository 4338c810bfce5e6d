"""Sources of models: from what a config calls one to a folder on this disk and an identity."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError, foreign_errors, suggestion
from llmprobe.ground.files import disk_is_full, existing, sha256, size
from llmprobe.models.conversions import converted, converted_folder
from llmprobe.models.gguf import convert_gguf
from llmprobe.models.packaged import PACKAGED, fetch

CODE_AND_WEIGHTS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class ModelSource:
    """A model's files on this disk."""

    folder: Path
    """The folder that transformers loads."""
    identity: str
    """A commit, or a digest of the files: it changes whenever the content does."""


def check(config: ModelConfig) -> None:
    """Raise ``UserError`` for what can be seen to be wrong without reading or downloading."""
    path = existing(config.id)
    where = f"model {config.id!r}"
    if config.quantization != "none":
        # It imports torch, which listing models needs no more than a plain model's check.
        from llmprobe.models.quantised import require_bitsandbytes

        require_bitsandbytes(config)
    if config.id in PACKAGED:
        return
    if path is None and config.id.startswith(("/", ".", "~")):
        raise UserError(f"{where}: does not exist")
    hint = suggestion(config.id, PACKAGED)
    if path is None and "/" not in config.id and hint.startswith("did you mean"):
        raise UserError(f"{where}: not a known name; {hint}")
    if path is not None and not path.is_dir() and path.suffix != ".gguf":
        raise UserError(f"{where}: is not a folder or a .gguf file")
    if path is not None and path.is_dir():
        _require_base_weights(path, where)
        if not (path / "config.json").is_file():
            raise UserError(f"{where}: the folder has no config.json, so it is not a model")
        if config.weights == "pretrained" and not _has_weights(path):
            raise UserError(
                f"{where}: the folder has no .safetensors weights (other formats can run code when "
                "read, so they are not); `weights: random` needs none"
            )


def locate(config: ModelConfig) -> ModelSource:
    """Find the model, downloading it when it is not on this disk.

    Raises
    ------
    UserError
        There is no such model, the folder is not one, or it cannot be downloaded.
    """
    check(config)
    path = existing(config.id)
    if config.id in PACKAGED:
        packaged = PACKAGED[config.id]
        return ModelSource(fetch(packaged), packaged.sha256)
    if path is None:
        return _hub(config)
    if path.is_dir():
        return ModelSource(path, _digest(path))
    digest = sha256(path)
    return ModelSource(
        converted(path.stem, digest, lambda _, folder: convert_gguf(path, folder)), digest
    )


def is_local(config: ModelConfig) -> bool:
    """Whether ``locate`` would download and convert nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if config.id in PACKAGED:
        packaged = PACKAGED[config.id]
        return converted_folder(packaged.name, packaged.sha256).is_dir()
    path = existing(config.id)
    if path is not None:
        return path.is_dir() or converted_folder(path.stem, sha256(path)).is_dir()
    try:
        folder = snapshot_download(config.id, revision=config.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return False
    return config.weights == "random" or _has_weights(Path(folder))


def expected_size(config: ModelConfig) -> str:
    """Return the size of a model by its name: ``"google/gemma-2b (about 4.0 GB, by its name)"``.

    It is that of weights in two bytes each.
    """
    if config.id in PACKAGED:
        return f"{config.id} ({size(PACKAGED[config.id].n_bytes)} to download)"
    # The number in names such as Qwen2.5-0.5B, pythia-70m, Llama-2-7b-chat-hf, Mixtral-8x7B.
    found = re.findall(r"(?i)(?<![a-z\d.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z\d])", config.id)
    if not found:
        return f"{config.id} (of unknown size)"
    times, number, unit = found[-1]
    parameters = int(times or 1) * float(number) * {"b": 1e9, "m": 1e6}[unit.lower()]
    return f"{config.id} (about {size(2 * parameters)}, by its name)"


def _has_weights(folder: Path) -> bool:
    """Whether all safetensors files of a model are there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        return all((folder / name).is_file() for name in _indexed(index))
    except UserError:
        return False


def _require_base_weights(folder: Path, where: str) -> None:
    """Raise ``UserError`` for an adapter, and for an index of other files than safetensors.

    transformers adds an adapter to the weights beside it if peft is installed, and not otherwise.
    """
    adapters = sorted(file.name for file in folder.glob("adapter_*"))
    if adapters:
        raise UserError(
            f"{where}: has an adapter ({adapters[0]}), and adapters are not read yet; merge it "
            "into the weights (peft's merge_and_unload), or take the folder without its adapter_* "
            "files for the base model"
        )
    for index in folder.glob("*.safetensors.index.json"):
        for name in _indexed(index):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(
                    f"{where}: {index.name} names {name!r:.100} as weights; allowed: .safetensors "
                    "files beside it (other formats can run code when read)"
                )


def _indexed(index: Path) -> list[str]:
    """Return the names of the files in an index of weights."""
    with foreign_errors(f"{index}: not an index of weights"):
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted(set(map(str, files)))


def _digest(folder: Path) -> str:
    """Return the digest of names and contents of all files of a folder, except hidden ones."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = file.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def _hub(config: ModelConfig) -> ModelSource:
    """Download a model from the Hub, or find it in the Hub's cache; see ``locate``."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model {config.id!r}"
    # A bare word is more often a known name misspelt than one of the Hub's few ownerless ids.
    hint = "" if "/" in config.id else f"; {suggestion(config.id, PACKAGED)}"
    patterns = [*CODE_AND_WEIGHTS, *(["*.py"] if config.trust_remote_code else [])]
    try:
        folder = snapshot_download(config.id, revision=config.revision, allow_patterns=patterns)
    except GatedRepoError:
        raise UserError(
            f"{where}: its owner asks for agreement to terms; agree on its page, "
            "then run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{where}: there is no revision {config.revision!r}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{where}: not a folder, nor a model on the Hub{hint}") from None
    except (LocalEntryNotFoundError, OSError) as error:
        if disk_is_full(error):
            raise
        raise UserError(
            f"{where}: not on this disk, and the Hugging Face Hub cannot be reached{hint}"
        ) from None
    _require_base_weights(Path(folder), where)
    return ModelSource(Path(folder), Path(folder).name)
