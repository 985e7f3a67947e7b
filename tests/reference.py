"""The network written a second time, with numpy, loops and no sharing of code: what every feature is compared with.

One sequence, float64, position by position, layer by layer, head by head. Slow and meant to be read beside the formulas.
"""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms(x):
    return x / math.sqrt(np.mean(x * x) + 2**-23)


def turn(vector, position, dims, base):
    """Rotary embedding of the first `dims` entries, as complex numbers."""
    out = vector.copy()
    for i in range(dims // 2):
        angle = position * base ** (-2 * i / dims)
        turned = complex(vector[i], vector[i + dims // 2]) * complex(math.cos(angle), -math.sin(angle))
        out[i], out[i + dims // 2] = turned.real, turned.imag
    return out


def bucket(tokens, t, multipliers, buckets):
    if t < len(multipliers) - 1:
        return buckets - 1
    mixed = 0
    for back, multiplier in enumerate(multipliers):
        mixed ^= multiplier * tokens[t - back]
    return mixed % (buckets - 1)


def execution(c, looping):
    """Physical layers in the order in which they run."""
    order = []
    for layer in range(c["num_layers"]):
        order.append(layer)
        f = c["features"].get("depth_recurrence")
        if looping and f and layer == f["last_layer"]:
            for _ in range(f["passes"] - 1):
                order += range(f["first_layer"], f["last_layer"] + 1)
    return order


def front(w, c, tokens):
    """The stream before the first layer."""
    f = c["features"]
    x = [w["embedding.weight"][token].copy() for token in tokens]
    if "bigram_hash" in f:
        table, buckets = w["bigram_hash.table.weight"], f["bigram_hash"]["buckets"]
        for t in range(len(tokens)):
            found = table[bucket(tokens, t, (36313, 27191), buckets)].copy()
            if f["bigram_hash"]["trigram"]:
                found += table[bucket(tokens, t, (36313, 27191, 51497), buckets)]
            x[t] = x[t] + w["bigram_hash.scale"][0] * (w["bigram_hash.projection.weight"] @ found)
    smear = f.get("smear_gate", {"version": 0})
    if smear["version"] in (2, 3):
        old = [row.copy() for row in x]
        for t in range(1, len(tokens)):
            if tokens[t] != 1 or smear["version"] == 3:
                gate = sigmoid(w["smear_gate.weight"] @ old[t][: smear["window"]])
                x[t] = old[t] + w["smear_gate.strength"][0] * gate * old[t - 1]
    x = [rms(row) for row in x]
    if "factorised_embedding" in f:
        x = [w["factorised_embedding.input.weight"] @ row for row in x]
    if smear["version"] == 1:
        gate = sigmoid(w["smear_gate.gate"])
        x = [(1 - gate) * x[t] + gate * (x[t - 1] if t else 0) for t in range(len(x))]
    return x


class Reference:
    """`logits(tokens)` of one set of weights; `starts` are the first positions of the documents that attention stays inside."""

    def __init__(self, weights, config, *, looping=True):
        self.w = {name: np.asarray(weight, np.float64) for name, weight in weights.items()}
        self.c, self.f, self.looping = config, config["features"], looping

    def logits(self, tokens, starts=(0,)):
        c, f, w = self.c, self.f, self.w
        self.tokens, self.starts, self.first_values, self.kept = tokens, starts, None, {}
        x = front(w, c, tokens)
        self.x0 = [row.copy() for row in x]
        order = execution(c, self.looping)
        stack, lane = [], None
        for position, layer in enumerate(order):
            if "two_lane" in f and layer >= f["two_lane"]["first_layer"] and lane is None:
                lane = [row.copy() for row in x]
            if "unet_skips" in f and position >= len(order) // 2 and stack:
                skip = stack.pop()
                x = self.merge(x, skip, position - len(order) // 2)
                if lane is not None and f["two_lane"]["writes"] == "sequential":
                    lane = self.merge(lane, skip, position - len(order) // 2)
            self.repeats = layer in order[:position]
            x, lane = self.layer(layer, x, lane)
            if "unet_skips" in f and position < len(order) // 2:
                stack.append(x)
        if lane is not None:
            x = [(p + q) / 2 for p, q in zip(x, lane, strict=True)]
        table = w["embedding.weight"] if c["tied_head"] else w["unembedding.weight"]
        out = w["factorised_embedding.output.weight"] if "factorised_embedding" in f else np.eye(c["width"])
        return np.array([[self.capped(z) for z in table @ (out @ rms(row))] for row in x])

    def capped(self, z):
        cap = self.c["logit_softcap"]
        if "asymmetric_cap" in self.f:
            cap = self.w["asymmetric_cap.positive" if z >= 0 else "asymmetric_cap.negative"][0]
        return cap * np.tanh(z / cap)

    def merge(self, x, skip, k):
        k = min(k, self.f["unet_skips"]["sets"] - 1)
        scaled = [self.w["unet_skips.weight"][k] * row for row in skip]
        if not self.f["unet_skips"]["gated"]:
            return [a + b for a, b in zip(x, scaled, strict=True)]
        gate = sigmoid(self.w["unet_skips.gate"][k])
        return [gate * a + (1 - gate) * b for a, b in zip(x, scaled, strict=True)]

    def layer(self, layer, x, lane):
        w, f = self.w, self.f
        x = self.mudd_before(layer, x)
        entered = self.mix(layer, x)
        if layer in f.get("skip_attention", {"layers": ()})["layers"]:
            attended = [0 * row for row in entered]
        else:
            attended = [
                w[f"blocks.{layer}.attention_scale"] * row for row in self.attention(layer, [self.norm(row, layer) for row in entered])
            ]
        feed = lambda rows: [w[f"blocks.{layer}.mlp_scale"] * self.mlp(layer, self.norm(row, layer)) for row in rows]  # noqa: E731
        if lane is not None and f["two_lane"]["writes"] == "sequential":
            stay, attention, mlp = (w[f"two_lane.{part}"][layer] for part in ("stay", "attention", "mlp"))
            p, q = ([stay[0] * row + attention[i] * a for row, a in zip(rows, attended, strict=True)] for i, rows in enumerate((x, lane)))
            fed = feed(self.mix(layer, q))
            p, q = ([stay[1] * row + mlp[i] * m for row, m in zip(rows, fed, strict=True)] for i, rows in enumerate((p, q)))
            return p, q
        if lane is not None:
            stay, attention, mlp = (w[f"two_lane.{part}"][layer] for part in ("stay", "attention", "mlp"))
            fed = feed(lane)
            return (
                [stay[0] * p + attention[0] * a + mlp[0] * m for p, a, m in zip(x, attended, fed, strict=True)],
                [stay[1] * q + attention[1] * a + mlp[1] * m for q, a, m in zip(lane, attended, fed, strict=True)],
            )
        out = [a + b for a, b in zip(entered, attended, strict=True)]
        parallel = "parallel_residual" in f and layer >= f["parallel_residual"]["first_layer"]
        out = [a + b for a, b in zip(out, feed(entered if parallel else out), strict=True)]
        if "dtg" in f:
            gates = [sigmoid(w["dtg.weight"][layer] @ row + w["dtg.bias"][layer]) for row in entered]
            out = [row + gate * (new - row) for row, gate, new in zip(entered, gates, out, strict=True)]
        if "mudd" in f and layer == self.c["num_layers"] - 1:
            for t, row in enumerate(out):
                c = self.mudd_coefficients(row, 1, "behind")
                streams = (self.kept["start"][t], self.kept["late"][t], self.kept["last"][t], self.kept["early"][t])
                out[t] = row + sum(weight * stream for weight, stream in zip(c, streams, strict=True))
        return out, None

    def mudd_coefficients(self, row, place, bias):
        w, hidden = self.w, self.w[f"mudd.input.{place}.weight"] @ row
        hidden = np.array([h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden])
        return 0.1 * (w[f"mudd.output.{place}.weight"] @ hidden + w[f"mudd.{bias}"])

    def mudd_before(self, layer, x):
        if "mudd" not in self.f:
            return x
        if layer == 0 and "start" not in self.kept:
            self.kept["start"] = [row.copy() for row in x]
        for name in ("early", "late"):
            if layer == self.f["mudd"][name] + 1:
                self.kept[name] = [row.copy() for row in x]
        if layer != self.c["num_layers"] - 1:
            return x
        self.kept["last"], out, self.kept["value"] = x, [], []
        for row, start, late in zip(x, self.kept["start"], self.kept["late"], strict=True):
            c = self.mudd_coefficients(row, 0, "before")
            self.kept["value"].append(c[0] * start + c[1] * late + c[2] * row)
            out.append((1 + c[5]) * row + c[3] * start + c[4] * late)
        return out

    def mix(self, layer, x):
        if "residual_mix" in self.f:
            m0, m1 = self.w["residual_mix.weight"][layer]
            x = [m0 * row + m1 * start for row, start in zip(x, self.x0, strict=True)]
        if "signed_bigrams" in self.f:
            x = [row + self.w["signed_bigrams.scale"][layer] * self.signed_bigram(t, len(row)) for t, row in enumerate(x)]
        return x

    def signed_bigram(self, t, width):
        table = self.w["signed_bigrams.table.weight"]
        found, index = table[bucket(self.tokens, t, (36313, 27191), len(table))], self.tokens[t] ^ self.tokens[t - 1] if t else 0
        out = np.zeros(width)
        for channel in range(len(found)):
            wrapped, odd = 1 << 64, 0x1E3779B97F4A7C15
            mixed = (index % 8192 * len(found) + channel + 1) * odd % wrapped
            signed = mixed - wrapped * (mixed >= wrapped // 2)  # as 64 bits with a sign have it, which a shift to the right keeps
            mixed = (signed ^ (signed >> 32)) * odd % wrapped
            out[channel] = -found[channel] if mixed >> 40 & 1 else found[channel]
        return out

    def norm(self, row, layer):
        return rms(row) / math.sqrt(layer + 1) if "ln_scale" in self.f else rms(row)

    def mlp(self, layer, u):
        up, down = (self.w[f"blocks.{layer}.mlp.{part}.weight"] for part in ("up", "down"))
        if self.repeats and layer in self.f.get("untied_mlp", {"layers": ()})["layers"]:
            up, down = self.w.get(f"untied_mlp.up.{layer}.weight", up), self.w[f"untied_mlp.down.{layer}.weight"]
        z = up @ u
        return down @ np.where(z > 0, z, self.c["mlp_negative_slope"] * z) ** 2

    def attention(self, layer, u):
        c, w, T = self.c, self.w, len(u)
        K, base = c["width"] // c["num_heads"], c["rope_base"]
        if 0 < c["rope_trained_length"] < T:
            base *= (T / c["rope_trained_length"]) ** (c["rope_dims"] / (c["rope_dims"] - 2))
        part = lambda name, t, head: (w[f"blocks.{layer}.attention.{name}.weight"] @ u[t])[K * head : K * head + K]  # noqa: E731
        values = [[part("value", t, g) for g in range(c["num_kv_heads"])] for t in range(T)]
        if "mudd" in self.f and layer == c["num_layers"] - 1:
            values = [
                [value + added[K * g : K * g + K] for g, value in enumerate(row)]
                for row, added in zip(values, self.kept["value"], strict=True)
            ]
        values = self.changed_values(layer, values, K)
        out = []
        for t in range(T):
            start, heads = max(s for s in self.starts if s <= t), []
            for head in range(c["num_heads"]):
                group = head * c["num_kv_heads"] // c["num_heads"]
                q = w[f"blocks.{layer}.attention.query_gain"][head] * turn(rms(part("query", t, head)), t, c["rope_dims"], base)
                keys = [turn(rms(part("key", s, group)), s, c["rope_dims"], base) for s in range(start, t + 1)]
                scores = np.array([q @ key / math.sqrt(K) for key in keys])
                weights = np.exp(scores - scores.max())
                y = sum(weight * values[start + i][group] for i, weight in enumerate(weights / weights.sum()))
                if "xsa" in self.f and layer >= c["num_layers"] - self.f["xsa"]["last_layers"]:
                    unit = values[t][group] / max(np.linalg.norm(values[t][group]), 1e-12)
                    y = y - (y @ unit) * unit
                if "learned_xsa" in self.f:
                    value = values[t][group]
                    y = y - math.tanh(w["learned_xsa.strength"][layer, head]) * (y @ value) / max(value @ value, 1e-8) * value
                heads.append(self.gate(layer, head, u[t]) * y)
            out.append(w[f"blocks.{layer}.attention.output.weight"] @ np.concatenate(heads))
        return out

    def changed_values(self, layer, values, K):
        w, f = self.w, self.f
        if layer in f.get("value_embedding", {"layers": ()})["layers"]:
            scale = w["value_embedding.layer_scale"][f["value_embedding"]["layers"].index(layer)] * w["value_embedding.scale"][0]
            for t, row in enumerate(values):
                added = scale * w["value_embedding.projection.weight"] @ w["value_embedding.table.weight"][self.tokens[t]]
                values[t] = [value + added[K * g : K * g + K] for g, value in enumerate(row)]
        if "value_residual" in f and self.first_values is None:
            self.first_values = values
        elif "value_residual" in f:
            weight, is_blend = w["value_residual.weight"][layer], f["value_residual"]["form"] == "blend"
            values = [
                [
                    weight[0] * first + weight[1] * value if is_blend else value + sigmoid(weight) * first
                    for first, value in zip(firsts, row, strict=True)
                ]
                for firsts, row in zip(self.first_values, values, strict=True)
            ]
        return values

    def gate(self, layer, head, u):
        w, f = self.w, self.f
        if "sparse_gate" in f:
            return sigmoid(f["sparse_gate"]["factor"] * (w["sparse_gate.weight"][layer, head] @ u[: f["sparse_gate"]["window"]]))
        if "output_gate" in f:
            return 2 * sigmoid(w["output_gate.weight"][layer, head] @ u[: f["output_gate"]["window"]])
        if "dense_gate" in f:
            return sigmoid(w["dense_gate.weight"][layer, head] @ u)
        if "head_gate" in f:
            return sigmoid(w["head_gate.weight"][layer, head] @ u + w["head_gate.bias"][layer, head])
        return 1.0
