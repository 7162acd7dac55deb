"""Decoder models whose layers differ in attention heads and MLP width, for transformers 4.45 and newer.

A structurally pruned model keeps, under `flap_gpu` in its config.json, the sizes of every layer and whether its output and
down projections have a bias. The classes below build the family's own model and give every layer its sizes; attention,
key-value cache, generation and saving are the family's.
"""

from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

try:
    from transformers import Qwen3Config, Qwen3ForCausalLM
except ImportError:  # before transformers 4.51
    Qwen3Config = Qwen3ForCausalLM = None
try:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM
except ImportError:  # before transformers 4.53
    SmolLM3Config = SmolLM3ForCausalLM = None


def _linear(dense: nn.Linear, inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A projection of other sizes, where and as precise as the dense one."""
    return nn.Linear(inputs, outputs, bias=bias, device=dense.weight.device, dtype=dense.weight.dtype)


def _give_sizes(layer: nn.Module, sizes: dict, hidden_size: int, head_dim: int) -> None:
    """Replaces the projections of one decoder layer."""
    attention, mlp = layer.self_attn, layer.mlp
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    neurons = sizes["intermediate_size"]
    for name, rows in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)):
        dense = getattr(attention, name)
        setattr(attention, name, _linear(dense, hidden_size, rows * head_dim, dense.bias is not None))
    attention.o_proj = _linear(attention.o_proj, heads * head_dim, hidden_size, sizes["o_proj_bias"])
    for name in ("gate_proj", "up_proj"):
        dense = getattr(mlp, name)
        setattr(mlp, name, _linear(dense, hidden_size, neurons, dense.bias is not None))
    mlp.down_proj = _linear(mlp.down_proj, neurons, hidden_size, sizes["down_proj_bias"])
    # Older versions of transformers read the sizes from these attributes, newer ones from the tensors.
    attention.num_heads = heads
    attention.num_key_value_heads = kv_heads
    attention.num_key_value_groups = heads // kv_heads
    attention.hidden_size = heads * head_dim  # of the attention's output, before its projection
    mlp.intermediate_size = neurons


class _PerLayerSizes:
    """To be mixed into a family's causal language model."""

    def __init__(self, config):
        super().__init__(config)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        sizes = config.flap_gpu["per_layer_config"]
        for index, layer in enumerate(self.model.layers):
            _give_sizes(layer, sizes[str(index)], config.hidden_size, head_dim)


class FlapGpuLlamaConfig(LlamaConfig):
    model_type = "flap_gpu_llama"


class FlapGpuLlamaForCausalLM(_PerLayerSizes, LlamaForCausalLM):
    config_class = FlapGpuLlamaConfig


class FlapGpuMistralConfig(MistralConfig):
    model_type = "flap_gpu_mistral"


class FlapGpuMistralForCausalLM(_PerLayerSizes, MistralForCausalLM):
    config_class = FlapGpuMistralConfig


class FlapGpuQwen2Config(Qwen2Config):
    model_type = "flap_gpu_qwen2"


class FlapGpuQwen2ForCausalLM(_PerLayerSizes, Qwen2ForCausalLM):
    config_class = FlapGpuQwen2Config


if Qwen3Config is not None:

    class FlapGpuQwen3Config(Qwen3Config):
        model_type = "flap_gpu_qwen3"

    class FlapGpuQwen3ForCausalLM(_PerLayerSizes, Qwen3ForCausalLM):
        config_class = FlapGpuQwen3Config


if SmolLM3Config is not None:

    class FlapGpuSmolLM3Config(SmolLM3Config):
        model_type = "flap_gpu_smollm3"

    class FlapGpuSmolLM3ForCausalLM(_PerLayerSizes, SmolLM3ForCausalLM):
        config_class = FlapGpuSmolLM3Config
