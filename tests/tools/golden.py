"""Makes a tiny model of random weights in `tests/data/golden`, with the logits and site inputs that transformers computes.

    python golden.py FOLDER

`pip install torch transformers safetensors`. The other models there came from the same steps with transformers 5.23: weights rounded to
their format, the whole model object cast to it (rotary frequencies included), and the forward pass in f32.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Phi3Config, Phi3ForCausalLM

WINDOWS, TOKENS = 2, 48


def main():
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=97, hidden_size=64, intermediate_size=136, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, sliding_window=16, bos_token_id=1, eos_token_id=2, pad_token_id=None,
        attn_implementation="eager",
    )
    model = Phi3ForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Larger than an untrained model's, so that attention is not flat and norms matter.
            weight.copy_(1 + 0.2 * torch.randn_like(weight) if "norm" in name else 0.12 * torch.randn_like(weight))
    model.save_pretrained(folder)
    model = model.float().eval()
    tensors = {"input_ids": torch.randint(0, config.vocab_size, (WINDOWS, TOKENS))}
    for index, layer in enumerate(model.model.layers):
        for site, projection in {"attention": layer.self_attn.o_proj, "mlp": layer.mlp.down_proj}.items():
            def keep(_, inputs, name=f"layers.{index}.{site}"):
                tensors[name] = inputs[0].detach().clone()
            projection.register_forward_pre_hook(keep)
    with torch.no_grad():
        tensors["logits"] = model(tensors["input_ids"]).logits.contiguous()
    save_file(tensors, folder / "golden.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)


main()
