"""Adapters are merged into the weights, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tokenizer, tiny_config

from llmprobe import ConceptDataset, UserError, extract, load_probe, probe, trace
from llmprobe.config.load import load_config, model_config
from llmprobe.config.schema import ModelConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.models.loading import load_language_model, load_model
from llmprobe.models.source import check

IDS = torch.tensor([[5, 9, 11, 7, 20, 6]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """``trained("llama")``: the folders of a base model and of an adapter with random weights."""

    def make(architecture: str, head: bool = True, **options: Any) -> tuple[Path, Path]:
        import transformers as hf
        from peft import LoraConfig, get_peft_model

        folder = tmp_path_factory.mktemp("adapters")
        kind = hf.AutoModelForCausalLM if head else hf.AutoModel
        with torch.random.fork_rng():
            torch.manual_seed(0)
            base = kind.from_config(tiny_config(architecture))
            base.save_pretrained(folder / "base")
            save_tokenizer(folder / "base")
            model = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, **options))
            model.save_pretrained(folder / "lora")
        return folder / "base", folder / "lora"

    return make


def expected_states(base: Path, lora: Path, head: bool = True) -> tuple[torch.Tensor, ...]:
    """The hidden states of peft's own model, whose adapter is not merged."""
    import transformers as hf
    from peft import PeftModel

    kind = hf.AutoModelForCausalLM if head else hf.AutoModel
    model = PeftModel.from_pretrained(kind.from_pretrained(base, dtype=torch.float32), lora).eval()
    with torch.inference_mode():
        return model(input_ids=IDS, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(
    ("architecture", "head", "options"),
    [
        ("llama", True, {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}),
        ("llama", False, {"target_modules": ["q_proj", "v_proj"]}),
        ("qwen2", True, {"target_modules": r"model\.layers\.[12]\.self_attn\.q_proj"}),
        ("gemma3", True, {"target_modules": ["k_proj"], "modules_to_save": ["lm_head"]}),
        ("gpt2", True, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("gpt_neox", True, {"target_modules": ["query_key_value"], "use_dora": True}),
    ],
)
def test_the_states_are_those_of_the_model_that_peft_loads(
    trained: Callable[..., tuple[Path, Path]],
    architecture: str,
    head: bool,
    options: dict[str, Any],
) -> None:
    base, lora = trained(architecture, head, **options)
    model = load_model(ModelConfig(id=str(base), adapter=str(lora), dtype="float32"))
    with torch.inference_mode():
        states = model.module(input_ids=IDS, output_hidden_states=True).hidden_states
        plain = load_model(ModelConfig(id=str(base), dtype="float32")).module
        before = plain(input_ids=IDS, output_hidden_states=True).hidden_states
    for state, expected in zip(states, expected_states(base, lora, head), strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(states[-1], before[-1], atol=1e-2)
    assert not any("lora" in name for name, _ in model.module.named_modules())


@pytest.mark.parametrize(
    ("head", "targets"), [(True, ["q_proj"]), (True, ["v_proj", "lm_head"]), (False, ["q_proj"])]
)
def test_a_model_that_answers_does_so_with_its_adapter(
    trained: Callable[..., tuple[Path, Path]], head: bool, targets: list[str]
) -> None:
    import transformers as hf
    from peft import PeftModel

    base, lora = trained("llama", head, target_modules=targets)
    config = ModelConfig(id=str(base), adapter=str(lora), dtype="float32")
    if not head:  # A base model alone has no head of its own.
        hf.AutoModelForCausalLM.from_pretrained(base).save_pretrained(base)
    module, model = load_language_model(config)
    plain = hf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(plain if head else plain.base_model, lora)
    with torch.inference_mode():
        torch.testing.assert_close(module(input_ids=IDS).logits, plain.eval()(IDS).logits)
    assert model.module is module.base_model


@pytest.fixture
def llama(trained: Callable[..., tuple[Path, Path]]) -> tuple[Path, Path]:
    return trained("llama", target_modules=["q_proj"], task_type="CAUSAL_LM")


def test_an_adapter_beside_the_weights_is_merged_only_where_it_is_asked_for(
    llama: tuple[Path, Path], tmp_path: Path
) -> None:
    base, lora = llama
    both = Path(shutil.copytree(base, tmp_path / "both"))
    for file in lora.glob("adapter_*"):
        shutil.copy(file, both)
    with pytest.raises(UserError, match=r"has an adapter .*; `adapter: \.` merges it into them"):
        load_model(ModelConfig(id=str(both)))
    for adapter in (".", str(both)):
        model = load_model(ModelConfig(id=str(both), adapter=adapter, dtype="float32"))
        with torch.inference_mode():
            states = model.module(input_ids=IDS, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[-1], expected_states(base, lora)[-1])
    load_model(ModelConfig(id=str(both), weights="random"))


def test_an_adapter_is_part_of_the_name_the_key_and_the_saved_probe(
    llama: tuple[Path, Path], tmp_path: Path
) -> None:
    base, lora = llama
    texts = [f"{word} is {end}" for word in ("Lima", "Paris", "red") for end in ("true", "false")]
    dataset = ConceptDataset("tiny", texts, [0, 1] * 3)
    copy = Path(shutil.copytree(lora, tmp_path / "other"))
    weights = bytearray((copy / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "adapter_model.safetensors").write_bytes(weights)
    adapters = (None, str(lora), str(copy))
    configs = [ModelConfig(id=str(base), adapter=adapter) for adapter in adapters]
    assert [config.name for config in configs] == ["base", "base-lora", "base-other"]
    folders = {Extractor(c.model_copy(update={"name": "m"})).folder(dataset) for c in configs}
    assert len(folders) == 3
    results = probe(extract(configs[2], dataset), folds=2, l2=1, controls=[], permutations=0)
    path = results.probes[0].save(tmp_path / "probe.safetensors")
    assert load_probe(path).facts["adapter"] == str(copy)
    (one,) = trace(path, "Lima is true")
    (base_alone,) = trace(path, "Lima is true", model=base)
    assert abs(one.scores - base_alone.scores).max() > 1e-3
    shutil.copy(lora / "adapter_model.safetensors", copy)
    with pytest.raises(UserError, match=r"the adapter .* is not the one that the probe was fitted"):
        trace(path, "Lima is true")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 2}, "the model lacks 2 of its weights, such as .*layers.2"),
        ({"num_hidden_layers": 4}, "it lacks 2 of its weights, such as .*layers.3"),
        ({"hidden_size": 16}, "size mismatch|Error"),
    ],
)
def test_an_adapter_of_another_model_is_one_sentence(
    llama: tuple[Path, Path], tmp_path: Path, change: dict[str, int], said: str
) -> None:
    from transformers import AutoModel

    config = tiny_config("llama")
    for key, value in change.items():
        setattr(config, key, value)
    AutoModel.from_config(config).save_pretrained(tmp_path / "other")
    save_tokenizer(tmp_path / "other")
    with pytest.raises(UserError, match=f"made for another model .*: ({said})") as refused:
        load_model(ModelConfig(id=str(tmp_path / "other"), adapter=str(llama[1])))
    assert "\n" not in str(refused.value)


def test_what_is_no_adapter_or_no_base_is_said_before_anything_is_loaded(
    llama: tuple[Path, Path], tmp_path: Path
) -> None:
    base, lora = map(str, llama)
    with pytest.raises(UserError, match=r"no adapter_config\.json, so it is not an adapter"):
        check(ModelConfig(id=base, adapter=base))
    with pytest.raises(UserError, match=r"adapter '\./nowhere': does not exist"):
        check(ModelConfig(id=base, adapter="./nowhere"))
    with pytest.raises(UserError, match=r"is an adapter and no model; give .* as id, and this"):
        check(ModelConfig(id=lora))
    other = Path(shutil.copytree(lora, tmp_path / "prompt"))
    path = other / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(UserError, match="of the kind 'PROMPT_TUNING'; only LoRA"):
        check(ModelConfig(id=base, adapter=str(other)))
    for wrong in ("quantization=nf4", "weights=random"):
        with pytest.raises(UserError, match="adapter"):
            model_config(base, [f"adapter={lora}", wrong])


def test_a_folder_beside_the_config_is_found_as_adapter_and_tokenizer(
    llama: tuple[Path, Path], tmp_path: Path
) -> None:
    base, lora = llama
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(lora, tmp_path / "lora")
    (tmp_path / "run.yaml").write_text(
        "models: [{id: ./base, adapter: lora, tokenizer: ./base}]\ndatasets: [capitals]\n"
    )
    (model,) = load_config(tmp_path / "run.yaml").models
    assert (model.adapter, model.tokenizer) == (str(tmp_path / "lora"), str(tmp_path / "base"))


def test_without_peft_it_says_what_to_install(
    llama: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = map(str, llama)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'llmprobe\[adapters\]'"):
        check(ModelConfig(id=base, adapter=lora))
