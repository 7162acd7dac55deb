"""Tokens per second of one decoder layer of LLaMA-7B's shape in PyTorch: a plain forward pass, for comparison with `flap-gpu bench`.

    python torch_layer.py [--device cpu] [--dtype float32] [--windows 4] [--threads N]

`pip install torch transformers`. Windows have 128 tokens. The authors' code runs one window at a time: `--windows 1`.
"""

import argparse
import statistics
import time

import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaDecoderLayer, LlamaRotaryEmbedding

WINDOW_TOKENS = 128
RUNS = 10

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
parser.add_argument("--windows", type=int, default=4)
parser.add_argument("--threads", type=int)
arguments = parser.parse_args()
if arguments.threads:
    torch.set_num_threads(arguments.threads)
device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)

config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_key_value_heads=32)
config._attn_implementation = "sdpa"
torch.manual_seed(0)
# Made in its format at once: a GPU need not hold the layer in f32.
torch.set_default_dtype(dtype)
with torch.device(device):
    layer = LlamaDecoderLayer(config, layer_idx=0).eval()
    states = torch.randn(arguments.windows, WINDOW_TOKENS, config.hidden_size)
    positions = torch.arange(WINDOW_TOKENS)[None]
    rotation = LlamaRotaryEmbedding(config)(states, positions)


def seconds() -> float:
    """Of one pass; a GPU has finished."""
    begin = time.perf_counter()
    layer(states, position_embeddings=rotation, position_ids=positions)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


with torch.inference_mode():
    for _ in range(3):
        seconds()
    median = statistics.median(seconds() for _ in range(RUNS))
tokens = arguments.windows * WINDOW_TOKENS
# Products only, as `flap-gpu bench` counts them.
operations = 2 * tokens * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
print(
    f"PyTorch {torch.__version__}, {device.type}, {torch.get_num_threads()} threads, {arguments.dtype}, "
    f"{arguments.windows} windows of {WINDOW_TOKENS}: {tokens / median:.0f} tokens/s, {operations / median / 1e9:.0f} GFLOP/s"
)
