"""Writes the reference of the recipes: `least-squares` and `sequential` from their formulas, in numpy and f64, on tiny models.

    python tests/tools/recipe_reference.py      # writes tests/data/recipes/*.safetensors

Everything is computed here from the checkpoint: the forward pass (checked by the tests against transformers' activations through the
engines), moments, removal orders, error curves, the allocation and the new weights. Each model is given fixed token ids.
"""

import json
import random
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = PROJECT / "tests/data/golden"
OUTPUT = PROJECT / "tests/data/recipes"
MODELS = ["llama-biased-f32", "llama3-gqa-rope-scaled-tied-bf16", "qwen2-bf16"]
TEXT, WINDOWS, LENGTH, RATIO, RIDGE = 2000, 24, 48, 0.4, 0.01


class Model:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        import torch

        with safe_open(folder / "model.safetensors", "pt") as file:
            self.tensors = {name: file.get_tensor(name).to(torch.float64).numpy() for name in file.keys()}
        c = self.config
        self.heads, self.hidden = c["num_attention_heads"], c["hidden_size"]
        self.kv_heads = c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or self.hidden // self.heads
        self.layers, self.neurons = c["num_hidden_layers"], c["intermediate_size"]
        self.eps, self.group = c["rms_norm_eps"], self.heads // self.kv_heads

    def get(self, layer, name):
        return self.tensors.get(f"model.layers.{layer}.{name}")

    def angles(self):
        rope = self.config["rope_parameters"]
        frequencies = rope["rope_theta"] ** (-2.0 * np.arange(self.head_dim // 2) / self.head_dim)
        if rope["rope_type"] == "llama3":
            turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
            kept = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
            frequencies = kept * frequencies + (1 - kept) * frequencies / rope["factor"]
        return np.outer(np.arange(LENGTH), frequencies)

    def norm(self, layer, site, h):
        weight = self.get(layer, "input_layernorm.weight" if site == 0 else "post_attention_layernorm.weight")
        return h / np.sqrt((h * h).mean(-1, keepdims=True) + self.eps) * weight

    def readers(self, layer, site):
        names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] if site == 0 else ["mlp.gate_proj", "mlp.up_proj"]
        return [(self.get(layer, f"{name}.weight"), self.get(layer, f"{name}.bias")) for name in names]

    def writer(self, layer, site):
        name = "self_attn.o_proj" if site == 0 else "mlp.down_proj"
        bias = self.get(layer, f"{name}.bias")
        return self.get(layer, f"{name}.weight"), np.zeros(self.hidden) if bias is None else bias

    def site_input(self, layer, site, h, readers, windows=WINDOWS):
        """`[tokens, channels]` of the site from the residual stream before its block."""
        x = self.norm(layer, site, h)
        outputs = [x @ weight.T + (0 if bias is None else bias) for weight, bias in readers]
        if site == 1:
            gate, up = outputs
            return gate / (1 + np.exp(-gate)) * up
        angles = self.angles()
        split = lambda y: y.reshape(windows, LENGTH, -1, self.head_dim).transpose(0, 2, 1, 3)
        q, k, v = map(split, outputs)

        def turn(y):
            a, b = y[..., : self.head_dim // 2], y[..., self.head_dim // 2 :]
            cos, sin = np.cos(angles), np.sin(angles)
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        q, k, v = turn(q), np.repeat(turn(k), self.group, 1), np.repeat(v, self.group, 1)
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(self.head_dim)
        scores = np.where(np.tril(np.ones((LENGTH, LENGTH), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).transpose(0, 2, 1, 3).reshape(windows * LENGTH, -1)

    def per_unit(self, site):
        return self.group * self.head_dim if site == 0 else 1


def ridge(matrix):
    """Relative to each channel's own variance; a constant channel counts as having a millionth of the mean."""
    variance = np.diag(matrix)
    share = max(RIDGE, len(variance) / (WINDOWS * LENGTH))
    return np.diag(share * np.maximum(variance, 1e-6 * variance.mean()))


def greedy(precision, weight, per_unit):
    """Removal order and cumulative error: neurons in blocks of a sixteenth, attention units one by one."""
    count = weight.shape[1] // per_unit
    block = max(1, count // 16) if per_unit == 1 else 1
    living, order, curve, error = list(range(count)), [], [0.0], 0.0
    while living:
        channels = lambda places: np.concatenate([np.arange(p * per_unit, (p + 1) * per_unit) for p in places]).astype(int)
        cost = lambda q: np.trace(weight[:, q] @ np.linalg.solve(precision[np.ix_(q, q)], weight[:, q].T))
        costs = np.array([cost(channels([p])) for p in range(len(living))])
        places = np.argsort(costs, kind="stable")[:block]
        gone = channels(places)
        stays = np.setdiff1d(np.arange(weight.shape[1]), gone)
        lost = cost(gone)
        curve += list(error + lost * np.cumsum(costs[places]) / costs[places].sum())
        error += lost
        curve[-1] = error
        order += [living[p] for p in places]
        transfer = np.linalg.solve(precision[np.ix_(gone, gone)], precision[np.ix_(gone, stays)])
        weight = weight[:, stays] - weight[:, gone] @ transfer
        precision = precision[np.ix_(stays, stays)] - precision[np.ix_(stays, gone)] @ transfer
        living = [unit for place, unit in enumerate(living) if place not in set(places)]
    return order, np.array(curve)


def allocate(curves, costs, fine):
    total = sum(cost * (len(curve) - 1) for curve, cost in zip(curves, costs))
    candidates = []
    for curve, is_fine in zip(curves, fine):
        units = len(curve) - 1
        step = max(1, units // 43) if is_fine else 1
        # One unit stays everywhere.
        candidates.append(sorted(set(list(range(0, units, step)) + [units - 1])))
    pick = lambda price: [
        min(options, key=lambda n: curve[n] - price * cost * n) for options, curve, cost in zip(candidates, curves, costs)
    ]
    removed = lambda counts: sum(cost * n for cost, n in zip(costs, counts))
    low, high = 1e-30, 1e30
    for _ in range(300):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if removed(pick(middle)) >= RATIO * total else (middle, high)
    counts = pick(high)
    give_back(counts, costs, fine, RATIO * total)
    return counts


def give_back(counts, costs, fine, wanted):
    """Neuron by neuron, round robin, as long as enough stays removed."""
    removed = lambda: sum(cost * n for cost, n in zip(costs, counts))
    changed = True
    while changed:
        changed = False
        for index, cost in enumerate(costs):
            if fine[index] and counts[index] > 0 and removed() - cost >= wanted:
                counts[index] -= 1
                changed = True


def moments(z, weights, y=None):
    """Means and covariances of tokens that count by `weights`."""
    shares = weights / weights.sum()
    mean = shares @ z
    centred = (z - mean) * shares[:, None]
    covariance = centred.T @ (z - mean)
    return mean, covariance, None if y is None else (shares @ y, centred.T @ (y - shares @ y))


def fit(covariance, cross, anchor, k):
    """Weights on the channels `k`; one ridge, that of all channels, for the choice of units and for their weights."""
    r = ridge(covariance)[np.ix_(k, k)]
    return np.linalg.solve(covariance[np.ix_(k, k)] + r, cross[k] + r @ anchor[:, k].T).T


def channels_of(kept, per_unit):
    return np.concatenate([np.arange(unit * per_unit, (unit + 1) * per_unit) for unit in kept]).astype(int)


def log_softmax(model, h):
    x = h / np.sqrt((h * h).mean(-1, keepdims=True) + model.eps) * model.tensors["model.norm.weight"]
    head = model.tensors.get("lm_head.weight")
    logits = x @ (model.tensors["model.embed_tokens.weight"] if head is None else head).T
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def search(model, sites, orders, costs, one_shot, embedded):
    """Allocation by rounds: every site with one chunk less, in a model with one-shot least-squares weights, on a sixteenth of the windows."""
    windows = -(-WINDOWS // 16)
    h0 = embedded[: windows * LENGTH]
    units = [len(order) for order in orders]
    chunk = [1 if site == 0 else round(costs[index - 1] / costs[index]) for index, (_, site) in enumerate(sites)]
    total = sum(cost * count for cost, count in zip(costs, units))
    removed = lambda counts: sum(cost * n for cost, n in zip(costs, counts))
    after = lambda counts, index: min(counts[index] + chunk[index], units[index] - 1)

    def run(counts):
        h = h0
        for index, (layer, site) in enumerate(sites):
            weight, bias = model.writer(layer, site)
            z = model.site_input(layer, site, h, model.readers(layer, site), windows)
            if counts[index] > 0:
                k = channels_of(sorted(orders[index][counts[index] :]), model.per_unit(site))
                mean, covariance = one_shot[index]
                fitted = fit(covariance, covariance @ weight.T, weight, k)
                z, weight, bias = z[:, k], fitted, weight @ mean - fitted @ mean[k] + bias
            h = h + z @ weight.T + bias
        return log_softmax(model, h)

    counts = [0] * len(sites)
    dense = run(counts)
    divergence = lambda counts: (np.exp(dense) * (dense - run(counts))).sum(-1).mean()
    rounds = max(2, round(RATIO / 0.05))
    for turn in range(1, rounds + 1):
        base, price, taken = divergence(counts), {}, [0] * len(sites)
        for index in range(len(sites)):
            fewer = after(counts, index)
            if fewer > counts[index]:
                tried = [fewer if place == index else n for place, n in enumerate(counts)]
                price[index] = max(0.0, divergence(tried) - base) / (costs[index] * (fewer - counts[index]))
        while removed(counts) < RATIO * total * turn / rounds:
            open_sites = [index for index in price if after(counts, index) > counts[index]]
            index = min(open_sites, key=lambda index: (price[index] * (1 + taken[index]), taken[index], index))
            counts[index] = after(counts, index)
            taken[index] += 1
    give_back(counts, costs, [site == 1 for _, site in sites], RATIO * total)
    return counts


def recipes(model, embedded, weighted):
    """All numbers of the recipes for one way to count tokens."""
    result = {}
    sites = [(layer, site) for layer in range(model.layers) for site in (0, 1)]
    streams, curves, orders, costs, one_shot = [embedded], [], [], [], []
    for index, (layer, site) in enumerate(sites):
        z = model.site_input(layer, site, streams[-1], model.readers(layer, site))
        weight, bias = model.writer(layer, site)
        streams.append(streams[-1] + z @ weight.T + bias)
        square = (streams[-1] ** 2).sum(-1)
        counts_as = 1 / square if weighted else np.ones(len(z))
        mean, covariance, _ = moments(z, counts_as)
        precision = np.linalg.inv(covariance + ridge(covariance))
        order, curve = greedy(precision, weight, model.per_unit(site))
        orders.append(order)
        # Weighted: the mean of each token's own relative error.
        curves.append(curve / (1 / (1 / square).mean() if weighted else square.mean()))
        costs.append((2 * model.group + 2) * model.head_dim * model.hidden if site == 0 else 3 * model.hidden)
        one_shot.append((mean, covariance))
        result[f"order.{index}"] = np.array(order, np.int64)
        result[f"curve.{index}"] = curves[-1]
    counts = allocate(curves, costs, [site == 1 for _, site in sites])
    result["removed"] = np.array(counts, np.int64)
    if not weighted:
        result["searched"] = np.array(search(model, sites, orders, costs, one_shot, embedded), np.int64)
    for index, (layer, site) in enumerate(sites):
        kept = sorted(orders[index][counts[index] :])
        k = channels_of(kept, model.per_unit(site))
        mean, covariance = one_shot[index]
        weight, bias = model.writer(layer, site)
        fitted = fit(covariance, covariance @ weight.T, weight, k)
        result[f"least-squares.weight.{index}"] = fitted
        result[f"least-squares.bias.{index}"] = weight @ mean - fitted @ mean[k] + bias
    g = embedded
    for index, (layer, site) in enumerate(sites):
        readers = model.readers(layer, site)
        if index > 0:
            reached, x = model.norm(layer, site, g), model.norm(layer, site, streams[index])
            u, v = reached.T @ reached / len(x), reached.T @ x / len(x)
            r = ridge(u)
            mapping = np.linalg.solve(u + r, v + r).T
            readers = [(weight @ mapping, bias) for weight, bias in readers]
        z = model.site_input(layer, site, g, readers)
        y = streams[index + 1] - g
        weight, _ = model.writer(layer, site)
        square = (streams[index + 1] ** 2).sum(-1)
        mean, covariance, (target, cross) = moments(z, 1 / square if weighted else np.ones(len(z)), y)
        start = fit(covariance, cross, weight, np.arange(len(covariance)))
        precision = np.linalg.inv(covariance + ridge(covariance))
        order, _ = greedy(precision, start, model.per_unit(site))
        kept = sorted(order[counts[index] :])
        k = channels_of(kept, model.per_unit(site))
        fitted = fit(covariance, cross, weight, k)
        bias = target - fitted @ mean[k]
        g = g + z[:, k] @ fitted.T + bias
        result[f"sequential.kept.{index}"] = np.array(kept, np.int64)
        result[f"sequential.weight.{index}"] = fitted
        result[f"sequential.bias.{index}"] = bias
        rows = readers[0][0].shape[0] // (len(order))
        result[f"sequential.reader.{index}"] = readers[0][0][channels_of(kept, rows)]
    return result


def reference(name):
    model = Model(GOLDEN / name)
    places = np.arange(TEXT)
    text = (places * 7919 + places // 11 * 31) % model.config["vocab_size"]
    # Windows as flap-gpu draws them with seed 0.
    random.seed(0)
    starts = [random.randint(0, TEXT - LENGTH - 1) for _ in range(WINDOWS)]
    ids = np.concatenate([text[start : start + LENGTH] for start in starts])
    embedded = model.tensors["model.embed_tokens.weight"][ids]
    result = {"text": text.astype(np.int64)} | recipes(model, embedded, False)
    result |= {f"weighted.{key}": value for key, value in recipes(model, embedded, True).items()}
    OUTPUT.mkdir(exist_ok=True)
    keep = {key: value if value.dtype == np.int64 else value.astype(np.float32) for key, value in result.items()}
    save_file({key: np.ascontiguousarray(value) for key, value in keep.items()}, OUTPUT / f"{name}.safetensors")
    print(name, result["removed"], result["weighted.removed"], result["searched"])


if __name__ == "__main__":
    for name in MODELS:
        reference(name)
