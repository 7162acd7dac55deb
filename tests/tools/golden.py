"""Makes tiny models of random weights in `tests/data/golden`, with the logits and site inputs that transformers computes.

    python golden.py FOLDER NAME

`pip install torch transformers safetensors`. The models there that have no name here came from the same steps with transformers 5.23:
weights rounded to their format, the whole model object cast to it (rotary frequencies included), and the forward pass in f32.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

PAIRS = 8
LONGROPE = dict(
    rope_type="longrope",
    short_factor=[1.0 + 0.1 * pair for pair in range(PAIRS)],
    long_factor=[1.5 + 0.7 * pair for pair in range(PAIRS)],
)
PARTIAL = dict(
    rope_type="longrope",
    partial_rotary_factor=0.75,
    short_factor=[1.0 + 0.1 * pair for pair in range(PAIRS * 3 // 4)],
    long_factor=[1.5 + 0.7 * pair for pair in range(PAIRS * 3 // 4)],
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
# Name: beginning of its classes' names, what differs, and the tokens of a window of each file of activations.
MODELS = {
    "phi3-bf16": ("Phi3", dict(sliding_window=16, pad_token_id=None), {"golden": 48}),
    "phi3-longrope-bf16": ("Phi3", dict(rope_parameters=LONGROPE, original_max_position_embeddings=32, pad_token_id=None), {"golden": 48, "golden-short": 24}),
    # As Phi-4-mini: three quarters of a head turn, longrope, tied. In f32, as its keys are rescaled, which would round 16 bits.
    "phi3-partial-f32": (
        "Phi3",
        dict(rope_parameters=PARTIAL, original_max_position_embeddings=32, tie_word_embeddings=True, pad_token_id=None),
        {"golden": 48, "golden-short": 24},
    ),
    "ernie4_5-bf16": ("Ernie4_5", dict(head_dim=16, use_bias=True, pad_token_id=None), {"golden": 48}),
    "glm-bf16": ("Glm", dict(head_dim=16, attention_bias=True, rms_norm_eps=1e-5, pad_token_id=None), {"golden": 48}),
    # In f32, as its projections are rescaled.
    "granite-f32": (
        "Granite",
        dict(head_dim=16, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.3, logits_scaling=7.0,
             attention_bias=True, mlp_bias=True, tie_word_embeddings=True, pad_token_id=None),
        {"golden": 48},
    ),
    "helium-bf16": ("Helium", dict(head_dim=16, pad_token_id=None), {"golden": 48}),
    "smollm3-bf16": ("SmolLM3", dict(num_hidden_layers=4, pad_token_id=None), {"golden": 48}),
    "qwen2-yarn-bf16": ("Qwen2", dict(rope_parameters=YARN), {"golden": 48}),
}
WINDOWS = 2


def main():
    name = sys.argv[2]
    folder = Path(sys.argv[1]) / name
    family, own, files = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **dict(num_hidden_layers=3) | own, vocab_size=97, hidden_size=64, intermediate_size=136, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(getattr(torch, {"bf16": "bfloat16", "f32": "float32"}[name.split("-")[-1]]))
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            # Larger than an untrained model's, so that attention is not flat and norms matter.
            value = 1 + 0.2 * torch.randn_like(weight) if "norm" in parameter else 0.12 * torch.randn_like(weight)
            weight.copy_(value.to(torch.bfloat16))
    model.save_pretrained(folder)
    model = model.float().eval()
    for file, tokens in files.items():
        save_file(activations(model, tokens), folder / f"{file}.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)


def activations(model, tokens):
    """Token ids, logits and the inputs of both sites' projections."""
    tensors = {"input_ids": torch.randint(0, model.config.vocab_size, (WINDOWS, tokens))}
    hooks = []
    for index, layer in enumerate(model.model.layers):
        for site, projection in {"attention": layer.self_attn.o_proj, "mlp": layer.mlp.down_proj}.items():
            def keep(_, inputs, name=f"layers.{index}.{site}"):
                tensors[name] = inputs[0].detach().clone()
            hooks.append(projection.register_forward_pre_hook(keep))
    with torch.no_grad():
        tensors["logits"] = model(tensors["input_ids"]).logits.contiguous()
    for hook in hooks:
        hook.remove()
    return tensors


main()
