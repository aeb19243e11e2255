"""The bases that the ready recipes are for: what their public configurations say, and the same architectures made tiny."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from templates.families import fresh_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
PROJECTIONS = tuple(sorted((*ATTENTION, "gate_proj", "up_proj", "down_proj")))
"""The linear layers of a decoder layer, which all of these architectures name alike."""


@dataclass(frozen=True)
class KnownBase:
    """A base at its true size.

    Args:
        id: on the hub.
        config: what its config.json says of its architecture.
        parameters: the hub's own count, tied weights once.
        family: whose chat template it has (`templates/`).
        decoder: the module that holds the decoder layers.
    """

    id: str
    config: Mapping[str, Any]
    parameters: int
    family: str
    decoder: str = "model"

    @property
    def text(self) -> Mapping[str, Any]:
        """What it says of the language model."""
        return self.config.get("text_config", self.config)


LLAMA = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False}
SMOLLM2 = {**LLAMA, "head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True}
LLAMA3 = {**LLAMA, "vocab_size": 128256, "max_position_embeddings": 131072, "rope_theta": 500000.0}
LLAMA3_ROPE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
QWEN3 = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
}
GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    # five layers with a window, then one without
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}

BASES = {
    "smollm2-360m": KnownBase(
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        {
            **SMOLLM2,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "rope_theta": 100000.0,
        },
        361_821_120,
        "smollm2",
    ),
    "smollm2-1.7b": KnownBase(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        {
            **SMOLLM2,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "rope_theta": 130000.0,
        },
        1_711_376_384,
        "smollm2",
    ),
    "qwen3-0.6b": KnownBase(
        "Qwen/Qwen3-0.6B",
        {
            **QWEN3,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "max_window_layers": 28,
            "tie_word_embeddings": True,
        },
        596_049_920,
        "qwen3",
    ),
    "qwen3-4b": KnownBase(
        "Qwen/Qwen3-4B",
        {
            **QWEN3,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "max_window_layers": 36,
            "tie_word_embeddings": True,
        },
        4_022_468_096,
        "qwen3",
    ),
    "qwen3-8b": KnownBase(
        "Qwen/Qwen3-8B",
        {
            **QWEN3,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "max_window_layers": 36,
            "tie_word_embeddings": False,
        },
        8_190_735_360,
        "qwen3",
    ),
    "llama-3.2-1b": KnownBase(
        "meta-llama/Llama-3.2-1B-Instruct",
        {
            **LLAMA3,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0},
            "tie_word_embeddings": True,
        },
        1_235_814_400,
        "llama3_2",
    ),
    "llama-3.1-8b": KnownBase(
        "meta-llama/Llama-3.1-8B-Instruct",
        {
            **LLAMA3,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "rope_scaling": {**LLAMA3_ROPE, "factor": 8.0},
            "tie_word_embeddings": False,
        },
        8_030_261_248,
        "llama3_1",
    ),
    "gemma-3-1b": KnownBase(
        "google/gemma-3-1b-it",
        {
            **GEMMA3,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "vocab_size": 262144,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
        },
        999_885_952,
        "gemma3",
    ),
    "gemma-3-4b": KnownBase(
        "google/gemma-3-4b-it",
        {
            "model_type": "gemma3",
            "mm_tokens_per_image": 256,
            "image_token_index": 262144,
            "text_config": {
                **GEMMA3,
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "vocab_size": 262208,
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window": 1024,
            },
            "vision_config": SIGLIP,
        },
        4_300_079_472,
        "gemma3",
        decoder="model.language_model",
    ),
}
"""Short name -> base. From the config.json that each id has on the hub; Llama's and Gemma's are gated, and were read in public copies."""

TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
TINY_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
TINY_WINDOW = 24
"""Shorter than every conversation of the tests, so that windows matter."""


def save_config(base: KnownBase, folder: Path) -> Path:
    """Save the true configuration beside empty weights: all that looking at a base's shapes reads."""
    (folder / "config.json").write_text(json.dumps(dict(base.config)))
    (folder / "model.safetensors").touch()
    return folder


def save_tiny(base: KnownBase, folder: Path) -> Path:
    """Save a random model of two decoder layers with the base's architecture, and a small tokenizer with its family's traits."""
    tokenizer = fresh_tokenizer(base.family)
    config = AutoConfig.for_model(**_tiny(base, tokenizer))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tiny(base: KnownBase, tokenizer: Any) -> dict[str, Any]:
    """The base's configuration with small sizes; whether heads share keys and values, ties, windows and positions stay as they are."""
    text = {**base.text, **TINY_TEXT, "num_key_value_heads": _tiny_heads(base.text)}
    if "sliding_window" in text:
        text |= {"sliding_window": TINY_WINDOW, "sliding_window_pattern": 2}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text |= {"vocab_size": len(tokenizer), "initializer_range": 0.2, **special}
    if "text_config" not in base.config:
        return text
    # the image's token is one of the vocabulary that no text holds
    image = {"image_token_index": tokenizer.bos_token_id, "mm_tokens_per_image": 4}
    return {**base.config, **image, **special, "text_config": text, "vision_config": {**base.config["vision_config"], **TINY_VISION}}


def _tiny_heads(text: Mapping[str, Any]) -> int:
    """One shared by all, one a head, or one for two heads, as in the base."""
    heads, shared = text["num_attention_heads"], text["num_key_value_heads"]
    return {1: 1, heads: TINY_TEXT["num_attention_heads"]}.get(shared, 2)
