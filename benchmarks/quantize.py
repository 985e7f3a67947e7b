"""Every quantizer on trained models: coded bits per weight against output error on held-out tokens and bits per byte of unseen text.

    python benchmarks/quantize.py                            artifacts/ after `dvc repro calibrate tokenize@holdout tokenize@val`
    python benchmarks/quantize.py --artifacts A B C --write --picture docs/pictures/quantize.svg     three models, into docs/quantization.md
    python benchmarks/quantize.py --methods entropy --bits       these against the published way at the same rate

Figures are means over the models, and s.d. is the standard deviation over them; the CSV has a row for each model. A model's weights and
Hessians are the same for all rows, so differences are the quantizer's. Every matrix that has a Hessian is quantized by the method of the
row; the features' tables by rounding to 6 bits, everywhere. Bits: what an adaptive coder charges (stages/lib/quant/rate.py), side
information included, over the matrices. Error: tr(E H E') / tr(W H W') with H from holdout, which no quantizer has seen, mean of decibels
over the matrices. Limit: reverse water-filling at the errors of the row, matrix by matrix (tests/water_filling.py); the gap is
what no coder of single rows could save. KL: the divergence from the weights as they are, in nats per token of the first 40,960 of val.
Lost: bits per byte of val and of the part of holdout that no quantizer reads, plain windows, against the weights as they are. It has more
noise, because a network is never at its best weights: rounding moves it, by chance, up or down the slope of the loss.
Entropy-constrained rows are at the bits of --bits, and at those that GPTQ with 12.85 deviations (#1493, #1855) came to on the same model.
The second table has these: the divergence and the loss as shares of GPTQ's, model by model. Its rows are means over DRAWS: GPTQ with some
more or less than 12.85 deviations, which rounds every weight otherwise, and each row at the bits of each. p: one-sided paired t-test
that the share is below that of the row above.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import csv
import dataclasses
import io
import math
import os
import platform
import statistics
import time
from typing import Any

PAGE, BEGIN, END = ROOT / "docs/quantization.md", "<!-- quantizers: benchmarks/quantize.py --write -->", "<!-- end of quantizers -->"
KL_TOKENS = 40_960
PUBLISHED, AS_PUBLISHED = ("GPTQ, sigmas", "6 bits, 12.85"), "as GPTQ"
DRAWS = (12.85, 12.65, 12.75, 12.95, 13.05)  # deviations
GRADIENT = {"row_steps": "gradient"}
STEPS = {  # settings of quantize.entropy, and how the steps of matrices are chosen: stages/sensitivity
    "scalar": ({"trellis": 0}, ()),
    "8 states": ({}, ()),
    "8 states, gradient rows": (GRADIENT, ()),
    "8 states, gradient rows and matrices": (GRADIENT, ("gradient",)),
    "8 states, gradient rows, measured matrices": (GRADIENT, ("measured",)),
    "8 states, gradient rows and matrices, then measured": (GRADIENT, ("gradient", "measured")),
    "8 states, gradient rows and matrices, then measured, then tuned": (GRADIENT, ("gradient", "measured")),
}
TUNED, TUNING_STEPS = "tuned", 50  # rows whose names end so; for the others, quantize.tuning is off
TABLE = {"method": "nearest", "bits": 6, "scales": "max", "clip": 1.0}
LITE = [0.999, 0.9995, 0.9999, 0.99999, 1.0]
AT_OTHER_BITS = ("scalar", "8 states", "8 states, gradient rows", "8 states, gradient rows and matrices, then measured")
COLUMNS = (
    "model",
    "method",
    "setting",
    "draw",
    "bits_per_weight",
    "error_db",
    "limit_bits",
    "gap_bits",
    "kl",
    "bits_per_byte",
    "lost",
    "seconds",
)


def group(method: str, bits: int, rule: str, clip) -> dict:
    return {"method": method, "bits": bits, "scales": rule, "clip": clip}


def rows() -> list[tuple[str, str, dict, dict]]:
    """(method, setting, settings of the matrices' groups, other leaves of the section)."""
    found = [("nearest, sigmas", f"6 bits, {clip}", group("nearest", 6, "sigmas", clip), {}) for clip in (6.0, 9.0, 12.85)]
    found += [("nearest, max", f"{bits} bits", group("nearest", bits, "max", 1.0), {}) for bits in (5, 6, 8)]
    found += [
        ("GPTQ-lite", "6 bits, floor 1/31", group("nearest", 6, "percentile", LITE), {"clip_floor": 1.0}),
        ("GPTQ-lite", "6 bits, no floor", group("nearest", 6, "percentile", LITE), {}),
        ("GPTQ, quantiles", "6 bits, floor 1/31", group("gptq", 6, "percentile", LITE), {"clip_floor": 1.0}),
    ]
    found += [
        (
            "GPTQ, sigmas",
            f"8 bits, {127 / 31 * clip:.4g}" if clip < 9 else f"6 bits, {clip}",
            group("gptq", 8, "sigmas", 127 / 31 * clip) if clip < 9 else group("gptq", 6, "sigmas", clip),
            {},
        )
        for clip in (6.0, 9.0, 12.85, 18.0, 26.0)
    ]
    found += [
        ("GPTQ, sigmas by Hessian", "6 bits, 12.85", group("gptq", 6, "hessian_sigmas", 12.85), {}),
        ("GPTQ, sigmas, tuned", "6 bits, 12.85", group("gptq", 6, "sigmas", 12.85), {"tuning.steps": TUNING_STEPS}),
        ("GPTQ, float8 steps", "6 bits, 12.85", group("gptq", 6, "sigmas", 12.85), {"scales_as": "float8"}),
        (
            "GPTQ, rotated",
            "6 bits, 12.85",
            group("gptq", 6, "sigmas", 12.85),
            {"rotation.groups": ["embedding", "attention", "mlp", "projection"], "rotation.block": 16},  # divides every width
        ),
        ("GPTQ + LQER", "6 bits, 12.85, 3 x rank 4", group("gptq", 6, "sigmas", 12.85), {"low_rank.matrices": 3}),
        ("ternary", "groups of 16", group("ternary", 2, "max", 1.0), {"ternary.group": 16}),
    ]
    return found


class Bench:
    """One checkpoint with its statistics, the limit of each matrix, and the rows that were measured on it."""

    def __init__(self, artifacts: Path, *, sequences: int, threads: int):
        import torch

        from stages.calibrate import hessians
        from stages.lib.node import params, tensors
        from stages.lib.quant import groups
        from stages.lib.tokens import splits
        from stages.lib.tokens.loaders import shuffled
        from stages.runtime.weights import dequantize
        from tests import water_filling

        torch.set_num_threads(threads)
        self.tree = params.read(ROOT / "params.yaml")
        self.state, self.facts = tensors.load(artifacts / "prequant_ttt/model.safetensors")
        self.hessians, self.rows = (tensors.load(artifacts / f"calibrate/{name}.safetensors")[0] for name in ("hessians", "rows"))
        self.net = dequantize.build(self.state, self.facts["model"])
        self.group_of = groups.by_parameter(self.net)
        self.val = splits.read(artifacts / "tokenize/val", "val", sidecar=True)
        length = self.tree["calibrate"]["sequence_length"]
        holdout = splits.read(artifacts / "tokenize/holdout", "holdout", sidecar=True)
        self.train = artifacts / "tokenize/train"
        self.holdout, read = holdout.tokens, self.tree["sensitivity"]["tokens"]
        rest = splits.Split(holdout.tokens[read:], holdout.byte_counts[read:], holdout.facts)
        self.unseen = (self.val, rest) if len(rest.tokens) > 1 else (self.val,)
        loader = shuffled.Loader(self.holdout, sequence_length=length, batch_tokens=length, seed=1, section="calibrate")
        found = hessians.collect(self.net, (loader.batch(step).inputs for step in range(sequences)), total=sequences)
        self.held = {name: hessian / (sequences * length) for name, hessian in found.items()}
        self.matrices = {name: weight for name, weight in self.state.items() if name.removesuffix(".weight") in self.hessians}
        self.limits = {
            name: water_filling.Limit.of(weight, self.held[name.removesuffix(".weight")]) for name, weight in self.matrices.items()
        }
        self.plain = self.score(self.state)
        window = self.tree["plain_score"]["window"]
        count = min(KL_TOKENS, len(self.val.tokens)) // window * window
        self.tested = torch.from_numpy(self.val.tokens[:count].astype("int64")).view(-1, window)
        self.exact_NV = self.log_probabilities(self.state)
        rounded = self.grouped(group("none", 6, "max", 1.0), {})
        self.tables = {name: coded for name, coded in rounded.matrices.items() if self.group_of[name] == "table"}
        self.found: list[dict] = []
        self.models: dict[str, Any] = {}

    @property
    def published(self) -> dict:
        """The row of the published way."""
        return self.row(*PUBLISHED)

    def draws(self, method: str, setting: str) -> list[dict]:
        return [row for row in self.found if (row["method"], row["setting"]) == (method, setting)]

    def row(self, method: str, setting: str) -> dict:
        """The mean over the draws."""
        own = self.draws(method, setting)
        return {key: statistics.fmean(row[key] for row in own) if isinstance(value, float) else value for key, value in own[0].items()}

    def add(self, method: str, setting: str, draw: int, run) -> None:
        """Measure one more row, with the matrices that `run` quantizes."""
        started = time.perf_counter()
        result = run(self, draw)
        seconds = time.perf_counter() - started
        self.found.append({"method": method, "setting": setting, "draw": draw, **self.measure(result), "seconds": seconds})

    def score(self, state: dict) -> float:
        """Bits per byte of the unseen text."""
        from stages.lib.tokens import window_score
        from stages.runtime.weights import dequantize

        net = dequantize.build(state, self.facts["model"])
        found = [window_score.chunked(net, text, window=self.tree["plain_score"]["window"]) for text in self.unseen]
        return sum(part.bits_per_byte * part.bytes for part in found) / sum(part.bytes for part in found)

    def log_probabilities(self, state: dict):
        """ln p (N, V) of the tested tokens' followers."""
        import torch

        from stages.runtime.weights import dequantize

        net = dequantize.build(state, self.facts["model"])
        with torch.no_grad():
            return torch.cat([net(part).log_softmax(-1).flatten(0, 1) for part in self.tested.split(32)])

    def grouped(self, matrices: dict, leaves: dict):
        """The Result of the stage's own code: `matrices` for every group but the tables, `leaves` of the section `quantize`."""
        import torch

        from stages.lib.node import params
        from stages.lib.quant.network import quantize
        from stages.lib.quant.settings import QuantizeSettings
        from stages.recipes import catalog

        changes = {f"quantize.groups.{name}": matrices for name in ("embedding", "attention", "mlp", "projection")}
        changes |= {"quantize.groups.table": TABLE, "quantize.min_elements": 64} | {
            f"quantize.{path}": value for path, value in leaves.items()
        }
        settings = params.section(catalog.applied(changes, self.tree), QuantizeSettings)
        result = quantize(self.state, self.group_of, self.hessians, settings, rows=self.rows, multipliers={}, device=torch.device("cpu"))
        if settings.tuning.steps:
            self.tune(result)
        return result

    def tune(self, result) -> None:
        import torch

        from stages.lib.node import params
        from stages.lib.quant import tuning
        from stages.lib.quant.settings import QuantizeSettings

        settings = dataclasses.replace(params.section(self.tree, QuantizeSettings).tuning, steps=TUNING_STEPS)
        tuning.tune(result, self.state, self.facts["model"], self.train, settings, torch.device("cpu"))

    def entropy_constrained(self, name: str, wanted: float | None, draw: int):
        """All matrices with one constant at the wanted bits per weight, or at those of a draw of the published way, with the settings and
        multipliers of this row of STEPS."""
        from stages.lib.quant import entropy_model
        from stages.lib.quant.network import Result
        from stages.lib.quant.settings import ROW_BITS

        weights, is_tuned = sum(weight.numel() for weight in self.matrices.values()), name.endswith(TUNED)
        reserved = ROW_BITS * sum(len(weight) for weight in self.matrices.values()) if is_tuned else 0.0
        bits = wanted or next(row["bits_per_weight"] for row in self.draws(*PUBLISHED) if row["draw"] == draw)
        if (name, wanted) not in self.models:
            self.models[name, wanted] = self.model(bits, *STEPS[name])  # its multipliers serve all draws
        found = entropy_model.finest(
            self.models[name, wanted],
            limit=bits * weights,
            tolerance=0.004 * weights,
            bits_of=lambda coded: reserved + entropy_model.estimated(coded).bits,
        )
        rest = {name: weight.half() for name, weight in self.state.items() if name not in self.matrices and name not in self.tables}
        result = Result(self.tables | found.quantized, float16=rest)
        if is_tuned:
            self.tune(result)
        return result

    def model(self, bits: float, changes: dict, matrices: tuple[str, ...]):
        """The matrices with their multipliers by gradients, or measured on holdout at so many bits per weight."""
        import torch

        from stages.lib.node import params
        from stages.lib.quant import entropy_model
        from stages.lib.quant.settings import EntropySettings
        from stages.sensitivity import __main__ as sensitivity
        from stages.sensitivity import allocation

        settings = dataclasses.replace(
            EntropySettings(
                bits_per_weight=bits,
                target_bytes=None,
                trellis=8,
                column_steps=True,
                row_steps="std",
                frequency_exponent=0.0,
                gain=True,
                damping=0.005,
                rate_distortion=0.0,
            ),
            **changes,
        )
        found = entropy_model.matrices(self.matrices, self.hessians, self.rows, settings=settings, multipliers={})
        model = entropy_model.Model(found, options=entropy_model.options(settings), device=torch.device("cpu"))
        chosen = params.section(self.tree, sensitivity.SensitivitySettings)
        clip = {"least": chosen.least, "most": chosen.most}
        if "gradient" in matrices:
            model.scale(allocation.start(model, self.rows, **clip))
        if "measured" in matrices:
            loss_of = sensitivity.divergence(self.state, self.facts["model"], self.holdout, chosen, torch.device("cpu"))
            damage = allocation.damages(
                model, {name: [name] for name in found}, constant=model.start(bits), coarseness=chosen.coarseness, loss_of=loss_of
            )
            model.scale(allocation.multipliers(damage, {name: weight.numel() for name, weight in self.matrices.items()}, **clip))
        return model

    def measure(self, result) -> dict:
        """Figures of one row."""
        from stages.lib.quant import entropy_model
        from stages.lib.quant.quantized import layer_error

        chosen = {name: found for name, found in result.matrices.items() if name in self.matrices}
        bits = entropy_model.estimated(chosen).bits_per_weight
        decibels, limit, count = [], 0.0, 0
        for name, found in chosen.items():
            weight, held = self.matrices[name], self.held[name.removesuffix(".weight")]
            relative = layer_error(weight, found, held)
            decibels.append(10 * math.log10(max(relative, 1e-30)))
            distortion = relative * float(((weight @ held) * weight).sum()) / weight.numel()
            limit += self.limits[name].bits(distortion) * weight.numel()
            count += weight.numel()
        coded = self.tables | result.matrices
        state = {name: found.weights().reshape(self.state[name].shape) for name, found in coded.items()}
        state |= {name: weight.float() for name, weight in result.float16.items() if name not in coded}
        score = self.score(state)
        return {
            "bits_per_weight": bits,
            "error_db": sum(decibels) / len(decibels),
            "limit_bits": limit / count,
            "gap_bits": bits - limit / count,
            "kl": float((self.exact_NV.exp() * (self.exact_NV - self.log_probabilities(state))).sum(-1).double().mean()),
            "bits_per_byte": score,
            "lost": score - self.plain,
        }


def picture(found: list[dict], path: Path) -> None:
    """Two panels over coded bits per weight, from 2 to 5.5: error on held-out tokens with the limit, and bits per byte lost."""
    import matplotlib.style
    from matplotlib.figure import Figure

    colours, shown = matplotlib.colormaps["tab20"], [row for row in found if 2 <= row["bits_per_weight"] <= 5.5]
    with matplotlib.style.context(["default", {"svg.hashsalt": "quantize", "font.size": 9}]):
        figure = Figure(figsize=(9.5, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        methods = list(dict.fromkeys(row["method"] for row in shown))
        for i, method in enumerate(methods):
            part = sorted((row for row in shown if row["method"] == method), key=lambda row: row["bits_per_weight"])
            for axes, key in ((left, "error_db"), (right, "lost")):
                axes.plot(
                    [row["bits_per_weight"] for row in part],
                    [row[key] for row in part],
                    marker="osD^vPX*<>hp"[i % 12],
                    markersize=5,
                    color=colours(i % 20),
                    linewidth=1.2,
                    label=method,
                    linestyle="-" if len(part) > 1 else "none",
                )
        # the mean of decibels says more than one number would: the line is that of one method's spread over the matrices
        line = sorted((row["limit_bits"], row["error_db"]) for row in shown if row["method"] == PUBLISHED[0])
        left.plot(*zip(*line, strict=True), color="black", linewidth=1.2, linestyle=(0, (4, 2)), label="reverse water-filling")
        left.set_ylabel("output error on holdout, dB")
        right.set_ylabel("bits per byte lost")
        right.set_yscale("symlog", linthresh=1e-3)
        for axes in (left, right):
            axes.set_xlabel("coded bits per weight")
            axes.set_xlim(2, 5.5)
            axes.grid(alpha=0.3)
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def jobs(bits: list[float], methods: list[str]) -> list[tuple]:
    """(method, setting, function of a Bench and a draw that quantizes) of each row."""

    def grouped(bench, draw, method, setting, matrices, leaves):
        return bench.grouped(matrices | ({"clip": DRAWS[draw]} if (method, setting) == PUBLISHED else {}), leaves)

    found = [(row[0], row[1], lambda bench, draw, row=row: grouped(bench, draw, *row)) for row in rows()]
    for wanted in (None, *bits):  # None: as many as the published way took
        for name in STEPS if wanted is None else AT_OTHER_BITS:
            found.append(
                (
                    f"entropy-constrained, {name}",
                    f"{wanted:g} bits" if wanted else AS_PUBLISHED,
                    lambda bench, draw, wanted=wanted, name=name: bench.entropy_constrained(name, wanted, draw),
                )
            )
    return [job for job in found if job[:2] == PUBLISHED or any(part in job[0] for part in methods)]


def mean(found: list[dict]) -> dict:
    """The mean of one row over the models; kl_deviation and lost_deviation are None for one model."""
    out = {key: statistics.fmean(row[key] for row in found) if isinstance(value, float) else value for key, value in found[0].items()}
    return out | {f"{key}_deviation": statistics.stdev(row[key] for row in found) if len(found) > 1 else None for key in ("kl", "lost")}


def spread(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


HEAD = (
    "| method | setting | bits per weight | error, dB | limit | gap | KL | s.d. | lost | s.d. |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def cells(row: dict) -> str:
    return (
        f"| {row['method']} | {row['setting']} | {row['bits_per_weight']:.3f} | {row['error_db']:.2f} | {row['limit_bits']:.3f} | "
        f"{row['gap_bits']:.3f} | {row['kl']:.5f} | {spread(row['kl_deviation'], '.5f')} | {row['lost']:+.4f} | "
        f"{spread(row['lost_deviation'], '.4f')} |"
    )


def shares(benches: list[Bench]) -> list[str]:
    """The rows at the bits of the published way: their divergence and their loss as shares of its own."""
    from stages.lib.referee import significance

    lines = [
        f"| at the bits of {', '.join(PUBLISHED)} | KL, share | s.d. | p | bits per byte lost, share | s.d. | p |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    above: dict[str, list[float]] = {}
    for row in benches[0].found:
        if row["setting"] != AS_PUBLISHED or row["draw"]:
            continue
        own_cells = []
        for key in ("kl", "lost"):
            own = [bench.row(row["method"], AS_PUBLISHED)[key] / bench.published[key] for bench in benches]
            differences = [a - b for a, b in zip(own, above.get(key, own), strict=True)]
            p = significance.one_sample(differences, 0.0, 0.0).p if key in above else None
            deviation = statistics.stdev(own) if len(own) > 1 else None
            own_cells += [f"{statistics.fmean(own):.1%}", spread(deviation, ".1%"), spread(p, ".2g")]
            above[key] = own
        lines.append(f"| {row['method'].partition(', ')[2]} | {' | '.join(own_cells)} |")
    return lines


def keep(benches: list[Bench], path: Path) -> None:
    """Write all rows so far."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, bench in enumerate(benches):
        for row in bench.found:
            writer.writerow({"model": number} | {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()})
    path.write_text(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--artifacts", type=Path, nargs="+", default=[ROOT / "artifacts"], help="results of the pipeline (default: artifacts)"
    )
    parser.add_argument("--sequences", type=int, default=256, help="holdout sequences of the held-out Hessians (default: %(default)s)")
    parser.add_argument(
        "--bits",
        type=float,
        nargs="*",
        default=[2.5, 3.0, 4.0],
        help="bits per weight of the entropy-constrained rows (default: %(default)s)",
    )
    parser.add_argument("--methods", nargs="*", default=[""], help="those whose names have one of these parts (default: all)")
    parser.add_argument(
        "--draws", type=int, choices=range(1, len(DRAWS) + 1), default=len(DRAWS), help="of the second table (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--table", type=Path, default=Path("quantize.csv"), help="where the CSV goes (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("quantize.svg"), help="where the picture goes (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="do not measure again what --table has from the same models")
    parser.add_argument("--write", action="store_true", help="put the tables between the markers of docs/quantization.md")
    arguments = parser.parse_args()
    benches = [Bench(folder, sequences=arguments.sequences, threads=arguments.threads) for folder in arguments.artifacts]
    if arguments.resume and arguments.table.is_file():
        with open(arguments.table, newline="") as handle:
            for row in csv.DictReader(handle):
                number, names = int(row.pop("model")), ("method", "setting")
                draw = int(row.pop("draw"))
                benches[number].found.append({"draw": draw} | {key: value if key in names else float(value) for key, value in row.items()})
    wanted = jobs(arguments.bits, arguments.methods)
    order = [job[:2] for job in wanted]
    print("\n".join(HEAD))
    for method, setting, run in sorted(wanted, key=lambda job: (job[:2] != PUBLISHED, job[1] != AS_PUBLISHED)):  # the others need its bits
        count = arguments.draws if (method, setting) == PUBLISHED or setting == AS_PUBLISHED else 1
        for bench in benches:
            for draw in range(len(bench.draws(method, setting)), count):
                bench.add(method, setting, draw, run)
                bench.found.sort(key=lambda row: (order.index((row["method"], row["setting"])), row["draw"]))
                keep(benches, arguments.table)
        print(cells(mean([bench.row(method, setting) for bench in benches])), flush=True)
    means = [mean([bench.row(*job[:2]) for bench in benches]) for job in wanted]
    weights = sum(weight.numel() for weight in benches[0].matrices.values())
    plain = ", ".join(f"{bench.plain:.4f}" for bench in benches)
    lines = [
        *shares(benches),
        "",
        f"n = {len(benches)} trained models, {arguments.draws} draws for the second table, {weights:,} weights in "
        f"{len(benches[0].matrices)} matrices, {arguments.sequences} holdout sequences; before quantization they "
        f"have {plain} bits per byte. {arguments.threads} threads of {os.cpu_count()} cores, "
        f"{platform.machine()}.",
    ]
    print("\n" + "\n".join(lines))
    picture(means, arguments.picture)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(
            before + "\n".join([BEGIN, "", *HEAD, *map(cells, means), "", *lines, "", END]) + rest.partition(END)[2], encoding="utf-8"
        )


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/quantize.py"):
        main()
