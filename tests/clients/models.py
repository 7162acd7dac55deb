"""Small models of every family with random weights, and tokenizers of every kind that GGUF files can hold.

Weights are random but large enough that every head and neuron matters to the logits. Each tokenizer is trained here, on the text
that calibrates the model, with the splitting rule of a well-known model.
"""

import json
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 512
POSITIONS = 256

LLAMA3_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_RULE = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_RULE = LLAMA3_RULE.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(split, ignore_merges=False, normalizer=None):
    """A byte-level BPE; `split` is the list of pre-tokenizers before the bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    uses_own_rule = any(isinstance(step, pre_tokenizers.Split) for step in split)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not uses_own_rule)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, last]) if split else last
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def split(rule):
    return [pre_tokenizers.Split(Regex(rule), behavior="isolated")]


def pieces():
    """A BPE on pieces with byte fallback, as LLaMA and Mistral have."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Words end at spaces while training, as SentencePiece has them; the finished tokenizer merges whole texts.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    return tokenizer, trainer


TOKENIZERS = {
    "gpt-2": lambda: byte_level([]),
    "llama-bpe": lambda: byte_level(split(LLAMA3_RULE), ignore_merges=True),
    "qwen2": lambda: byte_level(split(QWEN2_RULE), normalizer=normalizers.NFC()),
    "gpt-4o": lambda: byte_level(split(GPT4O_RULE)),
    "smollm": lambda: byte_level([pre_tokenizers.Digits(individual_digits=True)]),
    "pieces": pieces,
}


def tokenizer(kind, text):
    tokenizer, trainer = TOKENIZERS[kind]()
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    if kind == "pieces":
        # Only training needed it.
        state = json.loads(tokenizer.to_str())
        state["pre_tokenizer"] = None
        for token in state["added_tokens"]:
            token["special"] = not token["content"].startswith("<0x")
        state["added_tokens"] = [token for token in state["added_tokens"] if token["special"]]
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))
    if kind in ("llama-bpe", "pieces"):
        begin = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    return tokenizer


SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=6,
    head_dim=32,
    max_position_embeddings=POSITIONS,
    tie_word_embeddings=False,
    initializer_range=0.12,
    bos_token_id=None,
    eos_token_id=None,
)
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
# As Phi-3 was published.
LONGROPE = dict(type="longrope", short_factor=[1 + 0.05 * i for i in range(16)], long_factor=[1 + 0.6 * i for i in range(16)])
PARTIAL = dict(type="longrope", short_factor=[1 + 0.05 * i for i in range(12)], long_factor=[1 + 0.6 * i for i in range(12)])

# Name: family, changes to the sizes, tokenizer.
MODELS = {
    "llama, multi-head": ("Llama", dict(num_key_value_heads=6), "pieces"),
    "llama, grouped-query": ("Llama", dict(num_key_value_heads=3), "gpt-2"),
    "llama, tied, llama3 RoPE": (
        "Llama",
        dict(num_key_value_heads=3, tie_word_embeddings=True, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
        "llama-bpe",
    ),
    "llama, biases": ("Llama", dict(num_key_value_heads=6, attention_bias=True, mlp_bias=True), "smollm"),
    "mistral": ("Mistral", dict(num_key_value_heads=3, sliding_window=None), "pieces"),
    "mistral, sliding window": ("Mistral", dict(num_key_value_heads=3, sliding_window=64), "pieces"),
    "qwen2": ("Qwen2", dict(num_key_value_heads=3, head_dim=None, hidden_size=192), "qwen2"),
    "qwen3": ("Qwen3", dict(num_key_value_heads=3), "qwen2"),
    "smollm3": ("SmolLM3", dict(num_key_value_heads=3, num_hidden_layers=4, pad_token_id=None), "llama-bpe"),
    # The width is that of its heads, and the padding token of its defaults lies beyond this vocabulary.
    "phi3": ("Phi3", dict(num_key_value_heads=3, head_dim=None, hidden_size=192, pad_token_id=None), "llama-bpe"),
    "qwen2, yarn": ("Qwen2", dict(num_key_value_heads=3, head_dim=None, hidden_size=192, rope_scaling=YARN), "qwen2"),
    # All that is compared is one kind of window or the other: transformers changes over within a text, llama.cpp does not.
    "phi3, longrope, short windows": (
        "Phi3",
        dict(num_key_value_heads=3, head_dim=None, hidden_size=192, pad_token_id=None, max_position_embeddings=4 * POSITIONS,
             original_max_position_embeddings=POSITIONS, rope_scaling=LONGROPE),
        "llama-bpe",
    ),
    "phi3, longrope, long windows": (
        "Phi3",
        dict(num_key_value_heads=3, head_dim=None, hidden_size=192, pad_token_id=None, original_max_position_embeddings=4,
             rope_scaling=LONGROPE | dict(attention_factor=1.2)),
        "llama-bpe",
    ),
    # As Phi-4-mini: three quarters of a head turn.
    "phi3, partial": (
        "Phi3",
        dict(num_key_value_heads=3, head_dim=None, hidden_size=192, pad_token_id=None, tie_word_embeddings=True,
             max_position_embeddings=4 * POSITIONS, original_max_position_embeddings=POSITIONS, partial_rotary_factor=0.75,
             rope_scaling=PARTIAL),
        "gpt-4o",
    ),
    "ernie4_5": ("Ernie4_5", dict(num_key_value_heads=3, tie_word_embeddings=True, pad_token_id=None), "pieces"),
    "glm": ("Glm", dict(num_key_value_heads=3, hidden_size=192, pad_token_id=None), "llama-bpe"),
    "granite": (
        "Granite",
        dict(num_key_value_heads=3, hidden_size=192, tie_word_embeddings=True, embedding_multiplier=12.0, residual_multiplier=0.22,
             attention_multiplier=1 / 64, logits_scaling=8.0),
        "gpt-2",
    ),
    "helium": ("Helium", dict(num_key_value_heads=6, hidden_size=192, pad_token_id=None), "pieces"),
    "phi3, sliding window": (
        "Phi3",
        dict(num_key_value_heads=6, head_dim=None, hidden_size=192, pad_token_id=None, sliding_window=64),
        "pieces",
    ),
}


def make(name, folder: Path, text):
    """Writes the model folder; returns None if this version of transformers lacks the family."""
    family, changes, kind = MODELS[name]
    config_class = getattr(transformers, f"{family}Config", None)
    if config_class is None:
        return None
    settings = {key: value for key, value in (SIZES | changes).items() if not (key == "head_dim" and value is None)}
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config_class(**settings))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Biases begin as zero and norms as one, which would hide mistakes.
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(torch.float32).save_pretrained(folder)
    tokenizer(kind, text).save(str(folder / "tokenizer.json"))
    # As such models are published, which says another tokenizer than theirs.
    declared = "LlamaTokenizer" if family in ("Mistral", "Phi3") else "PreTrainedTokenizerFast"
    settings = {"tokenizer_class": declared, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
