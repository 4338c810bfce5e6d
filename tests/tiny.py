"""Tokenizers and configurations of tiny models over a few words."""

from __future__ import annotations

from pathlib import Path

WORDS = (
    "a the is of to not and coin flips heads up still capital city Lima Peru Paris France Bern "
    "red green blue one two three four five six seven eight nine ten statement true false or"
).split()
ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "gpt2", "gpt_neo",
    "gpt_neox", "opt", "bloom", "falcon", "mixtral", "qwen3_moe", "gpt_oss", "mamba", "bert",
    "roberta",
)  # fmt: skip
BOTH_WAYS = {"bert", "roberta"}
"""Of these, a token's state depends on the tokens to its right."""


def save_tokenizer(
    folder: Path, *, bos: bool = False, eos: bool = False, left: bool = False
) -> None:
    """A word-level tokenizer over ``WORDS``; ``left`` pads as Llama's and Gemma's do."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if bos or eos:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{'<s> ' * bos}$A{' </s>' * eos}",
            special_tokens=[(name, vocabulary[name]) for name in ("<s>", "</s>")],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left" if left else "right",
    ).save_pretrained(folder)


def tiny_config(architecture: str):
    """The configuration of a tiny instance of one of transformers' own classes."""
    import transformers as hf

    vocabulary = {"vocab_size": len(WORDS) + 4}
    sizes = {**vocabulary, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
             "intermediate_size": 48}  # fmt: skip
    window = {"max_position_embeddings": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    grouped = {**sizes, **window, **ids, "num_key_value_heads": 2}
    mixed = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention",
                                                  "sliding_attention"]}  # fmt: skip
    configs = {
        "llama": lambda: hf.LlamaConfig(**grouped),
        "mistral": lambda: hf.MistralConfig(**grouped, sliding_window=4),
        "qwen2": lambda: hf.Qwen2Config(**grouped),
        "qwen3": lambda: hf.Qwen3Config(**grouped, head_dim=8),
        "gemma2": lambda: hf.Gemma2Config(
            **grouped, **mixed, head_dim=8, query_pre_attn_scalar=8
        ),
        "gemma3": lambda: hf.Gemma3TextConfig(**grouped, **mixed, head_dim=8),
        "phi3": lambda: hf.Phi3Config(**grouped),
        "olmo2": lambda: hf.Olmo2Config(**grouped),
        "gpt2": lambda: hf.GPT2Config(
            **vocabulary, **ids, n_embd=32, n_layer=3, n_head=4, n_positions=64
        ),
        "gpt_neo": lambda: hf.GPTNeoConfig(
            **vocabulary, **window, **ids, hidden_size=32, num_layers=3, num_heads=4,
            attention_types=[[["global", "local", "global"], 1]], window_size=4,
        ),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**sizes, **window, **ids),
        "opt": lambda: hf.OPTConfig(
            **vocabulary, **window, **ids, hidden_size=32, num_hidden_layers=3, ffn_dim=48,
            num_attention_heads=4, word_embed_proj_dim=32,
        ),
        "bloom": lambda: hf.BloomConfig(**vocabulary, **ids, hidden_size=32, n_layer=3, n_head=4),
        "falcon": lambda: hf.FalconConfig(
            **vocabulary, **window, **ids, hidden_size=32, num_hidden_layers=3,
            num_attention_heads=4,
        ),
        "mixtral": lambda: hf.MixtralConfig(
            **grouped, num_local_experts=4, num_experts_per_tok=2
        ),
        "qwen3_moe": lambda: hf.Qwen3MoeConfig(
            **grouped, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        ),
        "gpt_oss": lambda: hf.GptOssConfig(
            **grouped, **mixed, head_dim=8, num_local_experts=4, num_experts_per_tok=2,
            rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0,
                             "original_max_position_embeddings": 32},
        ),
        "mamba": lambda: hf.MambaConfig(
            **vocabulary, **ids, hidden_size=32, num_hidden_layers=3, state_size=8
        ),
        "bert": lambda: hf.BertConfig(**sizes, **window, pad_token_id=3),
        "roberta": lambda: hf.RobertaConfig(**sizes, **window, **ids),
    }  # fmt: skip
    return configs[architecture]()
