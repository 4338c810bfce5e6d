"""Models load from folders and seeds, or say why not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import save_tokenizer

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models.loading import active_weights, load_architecture, load_model
from llmprobe.models.source import locate


def test_the_base_model_is_loaded_without_its_vocabulary_projection(
    tiny_model: Callable[..., Path],
) -> None:
    model = load_model(ModelConfig(id=str(tiny_model("llama"))))
    assert not any("lm_head" in name for name, _ in model.module.named_modules())


def test_random_weights_are_those_of_their_seed_and_not_the_trained_ones(
    tiny_model: Callable[..., Path],
) -> None:
    folder = str(tiny_model("llama"))

    def embedding(**options: object) -> torch.Tensor:
        config = ModelConfig(id=folder, dtype="float32", **options)
        return load_model(config).module.get_input_embeddings().weight.detach()

    first = embedding(weights="random", seed=1)
    assert torch.equal(first, embedding(weights="random", seed=1))
    assert not torch.equal(first, embedding(weights="random", seed=2))
    assert not torch.equal(first, embedding())


def test_making_random_weights_leaves_the_callers_random_state_alone(
    tiny_model: Callable[..., Path],
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model(ModelConfig(id=str(tiny_model("llama")), weights="random"))
    assert torch.equal(torch.rand(1), expected)


def test_the_shape_of_a_model_is_known_without_its_weights(
    tiny_model: Callable[..., Path],
) -> None:
    config = ModelConfig(id=str(tiny_model("llama")))
    model = load_model(config)
    shape = load_architecture(config, locate(config))
    embeddings = model.module.get_input_embeddings().weight.numel()
    assert (shape.n_blocks, shape.dtype) == (3, model.dtype)
    assert active_weights(shape.module) == model.parameters - embeddings


@pytest.fixture
def t5(tmp_path: Path) -> Callable[[str], str]:
    def make(kind: str) -> str:
        import transformers as hf

        config = hf.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=40)
        getattr(hf, kind)(config).save_pretrained(tmp_path / kind)
        save_tokenizer(tmp_path / kind)
        return str(tmp_path / kind)

    return make


def test_an_encoder_decoder_is_refused(t5: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="encoder-decoder"):
        load_model(ModelConfig(id=t5("T5Model")))


def test_weights_that_the_files_lack_are_not_made_up(t5: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=r"lack \d+ weights of T5Model, such as decoder"):
        load_model(ModelConfig(id=t5("T5EncoderModel")))


def test_weights_that_do_not_fit_the_config_are_one_clear_sentence(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    said = (
        "its files do not fit its config.json: layers.0.mlp.down_proj.weight is [32, 48], and by "
        "config.json [32, 40]"
    )
    with pytest.raises(UserError, match=f"^model .*: {re.escape(said)}$"):
        load_model(ModelConfig(id=str(folder)))


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_a_kernel_that_a_model_names_is_not_loaded(
    tiny_model: Callable[..., Path], tmp_path: Path, key: str
) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "someone/kernel"}))
    config = ModelConfig(id=str(folder))
    for model in (load_model(config), load_architecture(config, locate(config))):
        assert model.module.config._attn_implementation == "sdpa"
