"""Holds pruned models against the programs that load them: Hugging Face transformers and llama.cpp.

    python tests/clients/compare.py [--flap-gpu target/release/flap-gpu] [--model FOLDER]... [--markdown FILE]

For every family, two ratios and four kinds of plan it compares, on the same token ids, the logits of `flap-gpu forward`, of
transformers and of llama.cpp, as normalised squared errors; the ids of a page of text (in transformers, the source's too); 64 greedily generated tokens; and the
round trip through `save_pretrained`. It exits with 1 if one of them is out of tolerance.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import models

PROJECT = Path(__file__).resolve().parents[2]
TEXT = PROJECT / "demo" / "calibration.txt"
PAGE = (
    "The weather on 17 March 2024 wasn't bad: 3.5 \u00b0C, it's said, and 1234567 people didn't mind.\n\n"
    "  Two spaces,\ttabs\tand\r\nnew lines; caf\u00e9, na\u00efve, \u00fcber, \u6f22\u5b57, \u0440\u0443\u0441\u0441\u043a\u0438\u0439, \U0001f600!\n"
    "def f(x):\n    return x**2 # comment\n\nI'll go, you'd say, they've said: \"THEY'RE here\".   End"
)
# Where tokenizers differ: a text that begins with a space, and text around special tokens.
PAGES = [PAGE, f" {PAGE}", f"a<s>b</s> {PAGE}"]
# Sums in another order: f32 activations through a few layers. 16-bit files add the rounding of their weights' products in llama.cpp,
# which rounds activations to f16 too.
TOLERANCES = {"f32": 1e-6, "f16": 1e-4, "q8_0": 1e-2}
PLANS = {
    "adaptive": [],
    "uniform": ["--uniform"],
    "uniform, no biases": ["--uniform", "--compensation", "none"],
    "for llama.cpp": ["--for", "llama.cpp", "--format", "hf"],
}
GENERATED = 64


def normalised_error(values, reference):
    return float(((values - reference) ** 2).sum() / (reference**2).sum())


class Runner:
    def __init__(self, program, work):
        self.program, self.work = str(program), work

    def __call__(self, *arguments):
        """Runs flap-gpu; returns its JSON, or the error it gave."""
        command = [self.program, *map(str, arguments), "--json", "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Refused(done.stderr.strip().splitlines()[-1])
        return json.loads(done.stdout)

    def logits(self, model, ids):
        tokens, output = self.work / "ids.safetensors", self.work / "logits.safetensors"
        save_file({"input_ids": ids[None].astype(np.int64)}, tokens)
        self("forward", model, "--tokens", tokens, "--output", output, "--force")
        return load_file(output)["logits"][0]


class Refused(Exception):
    """flap-gpu declined, with a reason."""


def transformers_results(folder, ids, work):
    """Logits, greedy tokens, the name of the class, and the error of the round trip through save_pretrained."""
    code = (folder / "modeling_flap_gpu.py").exists()
    torch.manual_seed(0)
    load = lambda place: AutoModelForCausalLM.from_pretrained(place, trust_remote_code=code, torch_dtype=torch.float32).eval()
    model = load(folder)
    tokens = torch.tensor(ids[None])
    with torch.no_grad():
        logits = model(tokens).logits[0].numpy()
        prompt = tokens[:, :8]
        generated = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=GENERATED, do_sample=False, pad_token_id=0
        )[0, 8:].tolist()
        saved = work / "saved"
        model.save_pretrained(saved)
        again = load(saved)(tokens).logits[0].numpy()
    return logits, generated, type(model).__name__, normalised_error(again, logits)


def llama_cpp_results(file, ids, count):
    """Logits, greedy tokens, and a function from text to ids."""
    from llama_cpp import Llama

    # The key-value cache in f32, or it would round.
    model = Llama(str(file), n_ctx=models.POSITIONS, logits_all=True, verbose=False, type_k=0, type_v=0)
    model.eval(ids.tolist())
    logits = np.array(model.scores[: len(ids)])
    model.reset()
    model.eval(ids[:8].tolist())
    generated = []
    for _ in range(count):
        generated.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(generated[-1:])
    return logits, generated, lambda text: model.tokenize(text.encode(), add_bos=True, special=False)


class Report:
    def __init__(self):
        self.rows, self.failures = [], []

    def expect(self, condition, what):
        if not condition:
            self.failures.append(what)
            print(f"FAILED: {what}", flush=True)


def compare(run, report, name, source, ratio, plan, work, text=TEXT):
    """One pruned model in every client."""
    label = f"{name}, {ratio:.0%}, {plan}"
    folder = work / "pruned"
    row = {"model": name, "ratio": ratio, "plan": plan}
    report.rows.append(row)
    options = PLANS[plan]
    run("prune", source, "--output", folder, "--calibration", text, "--samples", 32, "--ratio", ratio, "--force", *options)
    config = json.loads((folder / "config.json").read_text())
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    vocabulary = config["vocab_size"]
    ids = np.random.default_rng(0).integers(3, vocabulary, size=96)
    ours = run.logits(folder, ids)
    theirs, generated, row["class"], round_trip = transformers_results(folder, ids, work)
    row["transformers"] = normalised_error(ours, theirs)
    report.expect(row["transformers"] < TOLERANCES["f32"], f"{label}: transformers {row['transformers']:.1e}")
    report.expect(round_trip == 0, f"{label}: save_pretrained changes the logits by {round_trip:.1e}")
    found = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(PAGES).input_ids
    expected = AutoTokenizer.from_pretrained(source)(PAGES).input_ids
    report.expect(found == expected, f"{label}: ids differ from the source's in transformers\n{found}\n{expected}")
    ids = ids[:window] if window else ids
    for kind, tolerance in TOLERANCES.items():
        file = work / f"pruned-{kind}.gguf"
        try:
            run("convert", folder, "--output", file, "--gguf-type", kind, "--force")
        except Refused as reason:
            row["llama.cpp"] = str(reason)
            return
        reads = run.logits(file, ids)
        steps = min(GENERATED, window - 8) if window else GENERATED
        logits, llama_generated, tokenise = llama_cpp_results(file, ids, steps)
        row[kind] = normalised_error(reads, logits)
        report.expect(row[kind] < tolerance, f"{label}: llama.cpp {kind} {row[kind]:.1e}")
        if kind == "f32":
            against = normalised_error(logits, theirs[: len(ids)])
            report.expect(against < tolerance, f"{label}: llama.cpp against transformers {against:.1e}")
            report.expect(llama_generated == generated[:steps], f"{label}: greedy tokens differ\n{llama_generated}\n{generated}")
            expected = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PAGE).ids
            found = tokenise(PAGE)
            report.expect(found == expected, f"{label}: ids of the page differ\n{found}\n{expected}")


def table(report):
    lines = ["| model | ratio | plan | class in transformers | transformers | llama.cpp f32 | f16 | q8_0 |", "|---|---|---|---|---|---|---|---|"]
    for row in report.rows:
        number = lambda key: f"{row[key]:.1e}" if key in row else "refused" if "llama.cpp" in row else ""
        cells = [row["model"], f"{row['ratio']:.0%}", row["plan"], row.get("class", ""), number("transformers")]
        lines.append(" | ".join(["|", *cells, *map(number, TOLERANCES)]).replace("| |", "|") + " |")
    reasons = {row["llama.cpp"].split(": ", 1)[-1] for row in report.rows if "llama.cpp" in row}
    return "\n".join([*lines, "", *(f"Refused: {reason}" for reason in sorted(reasons))])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flap-gpu", default=PROJECT / "target/release/flap-gpu")
    parser.add_argument("--model", action="append", default=[], type=Path, help="a real model folder to compare as well")
    parser.add_argument("--only", help="only models whose name contains this")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        run = Runner(arguments.flap_gpu, work)
        text = TEXT.read_text()
        sources = [(name, None) for name in models.MODELS] + [(folder.name, folder) for folder in arguments.model]
        for name, source in sources:
            if arguments.only and arguments.only not in name:
                continue
            source = source or models.make(name, work / name.replace(", ", "-").replace(" ", "-"), text)
            if source is None:
                print(f"SKIPPED: transformers {transformers.__version__} has no {name}")
                continue
            for ratio in (0.2, 0.5):
                for plan in PLANS:
                    try:
                        compare(run, report, name, source, ratio, plan, work)
                    except Refused as reason:
                        report.rows[-1]["llama.cpp"] = str(reason)
                    print(report.rows[-1], flush=True)
    print(table(report))
    print(f"transformers {transformers.__version__}, {len(report.rows)} pruned models, {len(report.failures)} failures")
    if arguments.markdown:
        arguments.markdown.write_text(table(report) + "\n")
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
