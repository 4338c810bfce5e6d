"""From what the config calls a model to a folder on this disk and what identifies its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from llmprobe.config import ModelConfig
from llmprobe.errors import UserError, suggestion
from llmprobe.files import existing, sha256
from llmprobe.models.gguf import converted, converted_folder
from llmprobe.models.packaged import PACKAGED, fetch

CODE_AND_WEIGHTS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class ModelSource:
    """A model's files on this disk."""

    folder: Path
    identity: str
    """Changes whenever the content does: a commit, or a digest of the files."""
    precision: str = ""
    """How the weights were stored, when that is not plain floating point."""
    licence: str = ""


def locate(config: ModelConfig) -> ModelSource:
    """Find the model, downloading it when it is not on this disk.

    Raises
    ------
    UserError
        There is no such model, the folder is not one, or it cannot be downloaded.
    """
    path = existing(config.id)
    if config.id in PACKAGED:
        packaged = PACKAGED[config.id]
        return ModelSource(fetch(packaged), packaged.sha256, packaged.precision, packaged.licence)
    if path is not None and path.is_dir():
        return _folder(path, config)
    if path is not None and path.suffix == ".gguf":
        digest = sha256(path)
        folder = converted(path.stem, digest, lambda _: path)
        return ModelSource(folder, digest, "GGUF weights, dequantised")
    if path is not None or config.id.startswith(("/", ".", "~")):
        problem = "does not exist" if path is None else "is not a folder or a .gguf file"
        raise UserError(f"model {config.id!r}: {problem}")
    return _hub(config)


def is_local(config: ModelConfig) -> bool:
    """Whether ``locate`` would download nothing."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if config.id in PACKAGED:
        packaged = PACKAGED[config.id]
        return converted_folder(packaged.name, packaged.sha256).is_dir()
    if existing(config.id) is not None:
        return True
    try:
        found = try_to_load_from_cache(config.id, "config.json", revision=config.revision)
    except HFValidationError:
        return False
    return isinstance(found, str)


def _folder(path: Path, config: ModelConfig) -> ModelSource:
    if not (path / "config.json").is_file():
        raise UserError(f"model {config.id!r}: the folder has no config.json, so it is not a model")
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    if config.weights == "pretrained" and not any(f.suffix == ".safetensors" for f in files):
        raise UserError(
            f"model {config.id!r}: the folder has no .safetensors weights (other formats can run "
            "code when read, so they are not); `weights: random` needs none"
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)}\0{sha256(file)}\n".encode())
    return ModelSource(path, digest.hexdigest())


def _hub(config: ModelConfig) -> ModelSource:
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
    except (LocalEntryNotFoundError, OSError):
        raise UserError(
            f"{where}: not on this disk, and the Hugging Face Hub cannot be reached{hint}"
        ) from None
    return ModelSource(Path(folder), Path(folder).name)
