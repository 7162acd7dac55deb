"""Tokens per second that llama.cpp generates with each of several GGUF files, measured in turns.

    python tests/clients/speed.py dense.gguf pruned.gguf [--tokens 32] [--rounds 3] [--threads 2]
"""

import argparse
import time

from llama_cpp import Llama


def generate(model, tokens):
    """Seconds a token takes, the prompt not counted."""
    model.reset()
    model.eval(list(range(3, 11)))
    begin = time.perf_counter()
    for step in range(tokens):
        # Which token follows does not matter to the time.
        model.eval([3 + step])
    return (time.perf_counter() - begin) / tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    models = [Llama(file, n_ctx=256, n_threads=arguments.threads, verbose=False) for file in arguments.files]
    times = [[] for _ in models]
    for _ in range(arguments.rounds):
        for model, seconds in zip(models, times):
            seconds.append(generate(model, arguments.tokens))
    first = min(times[0])
    for file, seconds in zip(arguments.files, times):
        best = min(seconds)
        print(f"{file}: {1 / best:.2f} tokens/s, {first / best:.2f} times the first (rounds: {[f'{1 / s:.2f}' for s in seconds]})")


if __name__ == "__main__":
    main()
