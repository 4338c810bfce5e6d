"""Sources of models: from the name in a config to a folder on this disk and an identity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError, foreign_errors, suggestion
from llmprobe.ground.files import disk_is_full, existing, sha256, size
from llmprobe.models.conversions import converted, converted_folder
from llmprobe.models.gguf import convert_gguf
from llmprobe.models.packaged import PACKAGED, fetch

TEXT_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""What describes a model and its tokenizer, beside the weights."""
_TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "tekken.json", "*.model", "*.tiktoken")


@dataclass(frozen=True)
class ModelSource:
    """A model's files on this disk."""

    folder: Path
    """The folder that transformers loads."""
    identity: str
    """A commit, or a digest of the files: it changes whenever the content does."""
    tokenizer: Path | None = None
    """The folder of a tokenizer from elsewhere."""
    adapter: Path | None = None
    """The folder of an adapter that is merged into the weights."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """The identities of that tokenizer and adapter, by the keys of a config that name them."""


def check(config: ModelConfig) -> None:
    """Raise ``UserError`` for what is seen to be wrong without reading weights or downloading."""
    path = existing(config.id)
    where = f"model {config.id!r}"
    if config.quantization != "none":
        # It imports torch, which neither a list of models nor the check of a plain one needs.
        from llmprobe.models.quantised import require_bitsandbytes

        require_bitsandbytes(config)
    _require_known(config.id, where)
    if path is not None and path.is_dir() and config.id not in PACKAGED:
        _require_model(config, path, where)
    for key, name in _named_beside(config):
        folder = existing(name)
        _require_known(name, f"{where}: {key} {name!r}")
        if folder is not None and key == "tokenizer" and folder.is_dir():
            _require_tokenizer(folder, f"{where}: {key} {name!r}", own=False)
        if folder is not None and key == "adapter":
            from llmprobe.models.adapters import require_adapter

            require_adapter(folder, f"{where}: {key} {name!r}")


def _named_beside(config: ModelConfig) -> list[tuple[str, str]]:
    """List the tokenizer and adapter that a config names: the key, and a name, id or folder."""
    adapter = config.id if config.adapter == "." else config.adapter
    named = (("tokenizer", config.tokenizer), ("adapter", adapter))
    return [(key, name) for key, name in named if name is not None]


def _require_known(name: str, where: str) -> None:
    """Raise ``UserError`` for a path to nothing, a misspelt name, and a file that is no model."""
    path = existing(name)
    if name in PACKAGED:
        return
    if path is None and name.startswith(("/", ".", "~")):
        raise UserError(f"{where}: does not exist")
    hint = suggestion(name, PACKAGED)
    if path is None and "/" not in name and hint.startswith("did you mean"):
        raise UserError(f"{where}: not a known name; {hint}")
    if path is not None and not path.is_dir() and path.suffix != ".gguf":
        raise UserError(f"{where}: is not a folder or a .gguf file")


def _require_model(config: ModelConfig, folder: Path, where: str) -> None:
    """Raise ``UserError`` unless a folder is a model with all that the config does not replace."""
    _require_base_weights(folder, config, where)
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: the folder has no config.json, so it is not a model")
    if config.weights == "pretrained" and not _has_weights(folder):
        from llmprobe.models.torch_files import torch_files

        files = torch_files(folder, where)
        if files and not config.convert:
            raise UserError(
                f"{where}: has its weights in {files[0].name} alone, a format that can run code; "
                "`convert: true` reads it without that, once, and keeps it as safetensors"
            )
        if not files:
            raise UserError(
                f"{where}: the folder has no .safetensors weights (other formats can run code when "
                "read, so they are not; `convert: true` converts .bin files); `weights: random` "
                "needs none"
            )
    if config.tokenizer is None:
        _require_tokenizer(folder, where, own=True)


def _require_tokenizer(folder: Path, where: str, own: bool) -> None:
    """Raise ``UserError`` for a folder without the files of a tokenizer.

    For some kinds of model, transformers would make a tokenizer that knows no word.
    """
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise UserError(
            f"{where}: the folder has no tokenizer"
            + own * "; name another folder, or a known name or Hub id, with `tokenizer: …`"
        )


def locate(config: ModelConfig) -> ModelSource:
    """Find the model, downloading it when it is not on this disk.

    Raises
    ------
    UserError
        There is no such model, tokenizer or adapter, a folder is not one, or it cannot be
        downloaded.
    """
    check(config)
    source = _locate_base(config)
    where = f"model {config.id!r}"
    for key, name in _named_beside(config):
        problem = f"{where}: {key} {name!r}"
        if key == "tokenizer":
            folder, identity = _locate_tokenizer(name, problem)
            source = replace(source, tokenizer=folder, beside={**source.beside, key: identity})
        elif config.weights == "pretrained":
            folder, identity = _locate_adapter(name, config, problem)
            source = replace(source, adapter=folder, beside={**source.beside, key: identity})
    return source


def _locate_base(config: ModelConfig) -> ModelSource:
    """Find the model itself, without a tokenizer or adapter from elsewhere."""
    path = existing(config.id)
    if config.id in PACKAGED:
        packaged = PACKAGED[config.id]
        return ModelSource(fetch(packaged), packaged.sha256)
    if path is not None and not path.is_dir():
        return _converted_gguf(path)
    where = f"model {config.id!r}"
    if path is None:
        folder = _hub_folder(config, where)
        identity = folder.name
        _require_model(config, folder, where)
    else:
        folder, identity = path, _digest(path)
    if config.weights == "pretrained" and not _has_weights(folder):
        folder = _converted_torch(config, folder, identity, where)
    return ModelSource(folder, identity)


def _converted_gguf(path: Path) -> ModelSource:
    digest = sha256(path)
    folder = converted(path.stem, digest, lambda _, folder: convert_gguf(path, folder))
    return ModelSource(folder, digest)


def _converted_torch(config: ModelConfig, folder: Path, identity: str, where: str) -> Path:
    """Convert a model that has only .bin weights to safetensors, and return its folder."""
    from llmprobe.models.torch_files import convert_torch_files

    name = re.split(r"[/\\]", config.id.rstrip("/\\"))[-1]
    return converted(name, identity, lambda _, new: convert_torch_files(folder, new, where))


def _locate_tokenizer(name: str, where: str) -> tuple[Path, str]:
    """Return the folder of a tokenizer and its identity."""
    path = existing(name)
    if name in PACKAGED:
        return fetch(PACKAGED[name]), PACKAGED[name].sha256
    if path is not None and path.is_dir():
        return path, _digest(path, TEXT_FILES)
    if path is not None:
        source = _converted_gguf(path)
        return source.folder, source.identity
    folder = _snapshot(name, "main", TEXT_FILES, where)
    _require_tokenizer(folder, where, own=False)
    return folder, folder.name


def _locate_adapter(name: str, config: ModelConfig, where: str) -> tuple[Path, str]:
    """Return the folder of an adapter and its identity."""
    from llmprobe.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, require_adapter

    path = existing(name)
    files = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    revision = config.revision if name == config.id else "main"
    folder = path or _snapshot(name, revision, files, where)
    require_adapter(folder, where)
    return folder, folder.name if path is None else _digest(folder, files)


def is_local(config: ModelConfig) -> bool:
    """Whether ``locate`` would neither download nor convert anything."""
    return _is_local(config) and all(
        name in PACKAGED or existing(name) is not None or _cached(name, "main") is not None
        for _, name in _named_beside(config)
    )


def _is_local(config: ModelConfig) -> bool:
    """Whether the model itself is on this disk, in the form in which it is loaded."""
    if config.id in PACKAGED:
        packaged = PACKAGED[config.id]
        return converted_folder(packaged.name, packaged.sha256).is_dir()
    path = existing(config.id)
    if path is not None:
        return path.is_dir() or converted_folder(path.stem, sha256(path)).is_dir()
    folder = _cached(config.id, config.revision)
    return folder is not None and (
        config.weights == "random"
        or _has_weights(folder)
        or converted_folder(config.id.rsplit("/", 1)[-1], folder.name).is_dir()
    )


def _cached(name: str, revision: str) -> Path | None:
    """Return where the Hub's cache has files of a model, None if there are none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def expected_size(config: ModelConfig) -> str:
    """Return the size of a model by its name: ``"google/gemma-2b (about 4.0 GB, by its name)"``.

    Two bytes a weight are assumed, unless the size is known.
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


def _require_base_weights(folder: Path, config: ModelConfig, where: str) -> None:
    """Raise ``UserError`` for an adapter that the config does not name, and for a wrong index.

    transformers adds an adapter to the weights beside it if peft is installed, and not otherwise.
    An index is wrong if it names other files than .safetensors files beside it.
    """
    adapters = sorted(file.name for file in folder.glob("adapter_*"))
    if adapters and not (folder / "config.json").is_file():
        from llmprobe.models.adapters import base_of

        base = base_of(folder, where) or "the model that it was made for"
        raise UserError(
            f"{where}: is an adapter and no model; give {base} as id, and this folder as "
            f"`adapter: {config.id}`"
        )
    if adapters and config.adapter is None and config.weights == "pretrained":
        raise UserError(
            f"{where}: has an adapter ({adapters[0]}) beside its weights; `adapter: .` merges it "
            "into them; for the base model, take the folder without its adapter_* files"
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


def _digest(folder: Path, patterns: Sequence[str] = ()) -> str:
    """Return the digest of names and contents of all files of a folder, except hidden ones.

    With ``patterns``, only of the files directly in the folder that match one.
    """
    digest = hashlib.sha256()
    files = {f for pattern in patterns or ["**/*"] for f in folder.glob(pattern)}
    for file in sorted(f for f in files if f.is_file()):
        name = file.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """Yield a folder of a model's files without an adapter, which transformers would load too."""
    if not (folder / "adapter_config.json").is_file():
        yield folder
        return
    with TemporaryDirectory(prefix="llmprobe-") as scratch:
        for file in folder.iterdir():
            if not file.name.startswith("adapter_"):
                (Path(scratch) / file.name).symlink_to(file.resolve())
        yield Path(scratch)


def _hub_folder(config: ModelConfig, where: str) -> Path:
    """Download a model from the Hub, or find it in the Hub's cache."""
    code = ["*.py"] if config.trust_remote_code else []
    patterns = [*TEXT_FILES, "*.safetensors", *code]
    folder = _snapshot(config.id, config.revision, patterns, where)
    if config.convert and config.weights == "pretrained" and not _has_weights(folder):
        patterns.append("pytorch_model*.bin")
        folder = _snapshot(config.id, config.revision, patterns, where)
    return folder


def _snapshot(name: str, revision: str, patterns: Sequence[str], where: str) -> Path:
    """Download files of the Hub, or find them in its cache, and return their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # A bare word is more often a known name misspelt than one of the Hub's few ownerless ids.
    hint = "" if "/" in name else f"; {suggestion(name, PACKAGED)}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError:
        raise UserError(
            f"{where}: its owner asks for agreement to terms; agree on its page, "
            "then run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{where}: there is no revision {revision!r}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{where}: not a folder, nor a model on the Hub{hint}") from None
    except (LocalEntryNotFoundError, OSError) as error:
        if disk_is_full(error):
            raise
        raise UserError(
            f"{where}: not on this disk, and the Hugging Face Hub cannot be reached{hint}"
        ) from None
