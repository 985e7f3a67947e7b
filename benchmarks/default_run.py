"""The README's results table: the default pipeline over several training seeds, against general-purpose compressors.

    python benchmarks/default_run.py --seeds 1337 1 2            run (cached seeds are not run again) and print
    python benchmarks/default_run.py --seeds 1337 1 2 --write    also put the table into README.md

Each seed is `dvc exp run --temp -S train.seed=<seed>` of the committed tree; prints mean, sample standard deviation and n, and
the hardware. Peers: the general-purpose compressors of params.yaml on the same val bytes, alone and after the train text.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import json
import os
import platform
import statistics
import subprocess

START, END = "<!-- results: benchmarks/default_run.py --write -->", "<!-- end of results -->"


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def results(seed: int) -> dict:
    """The flat summary of the default pipeline with one training seed."""
    name = f"default-seed-{seed}-{run('git', 'rev-parse', '--short', 'HEAD').strip()}"
    if name not in run("dvc", "exp", "list", "--name-only").split():
        print(f"running seed {seed}", file=sys.stderr)
        run("dvc", "exp", "run", "--temp", "--name", name, "-S", f"train.seed={seed}")
    import dvc.api

    reference = run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}").split()[0]
    with dvc.api.open("artifacts/report/metrics.json", repo=str(ROOT), rev=run("git", "rev-parse", reference).strip()) as handle:
        return json.load(handle)


def table(found: list[dict]) -> str:
    def spread(key: str, digits: int = 4) -> str:
        values = [summary[key] for summary in found]
        deviation = f"{statistics.stdev(values):,.{digits}f}" if len(values) > 1 else "-"
        return f"{statistics.mean(values):,.{digits}f} | {deviation}"

    lines = ["| bits per byte of the val split | mean | s.d. |", "|---|---:|---:|"]
    for stage in (name for name in ("train", "ema", "prequant_ttt", "quantize") if f"bits_per_byte.{name}" in found[0]):
        lines.append(f"| after `{stage}` (plain windows) | {spread('bits_per_byte.' + stage)} |")
    for key in found[0]:
        if key.startswith("legal."):
            evaluator = key.removeprefix("legal.")
            verdicts = {summary[key] for summary in found}
            verdict = "legal" if verdicts == {True} else "not legal" if verdicts == {False} else "verdict differs by seed"
            lines.append(f"| evaluator `{evaluator}`, claimed: {verdict} | {spread('bits_per_byte.' + evaluator)} |")
            if all(summary[f"at_most_bits_per_byte.{evaluator}"] is not None for summary in found):
                lines.append(f"| evaluator `{evaluator}`, at most with 99 % confidence | {spread('at_most_bits_per_byte.' + evaluator)} |")
    first = found[0]
    for key in first:
        if not (key.startswith("text_compressors.") and key.endswith(".bits_per_byte")):
            continue
        if (name := key.split(".")[1]) == "strongest":
            continue
        alone, after = first[key], first[f"{key}_after_train"]
        lines.append(f"| {name.replace('_', ' -')} on the same bytes | {alone:.4f} | exact |")
        if after is not None:
            lines.append(f"| {name.replace('_', ' -')} after the train text | {after:.4f} | exact |")
    lines += ["", "| codec of the same weights | bytes | s.d. | encode s | decode s |", "|---|---:|---:|---:|---:|"]
    for key in found[0]:
        if key.endswith(".blob_bytes") and found[0][key] is not None:
            codec = key.split(".")[1]
            seconds = [statistics.mean(summary[f"compress.{codec}.{what}_seconds"] for summary in found) for what in ("encode", "decode")]
            lines.append(f"| {codec} | {spread(key, 0)} | {seconds[0]:.2f} | {seconds[1]:.3f} |")
    lines += [
        "",
        f"Artifact: {spread('package.artifact_bytes', 0).replace(' | ', ' bytes, s.d. ')}, of 16,000,000. "
        f"{found[0]['train.parameters']:,} parameters, {statistics.mean(s['train.train_seconds'] for s in found):.0f} s of training, "
        f"{found[0]['text.val_bytes']:,} val bytes (sha256 {found[0]['text.sha256.val'][:12]}). n = {len(found)} training seeds on "
        f"{hardware()}.",
    ]
    return "\n".join(lines)


def hardware() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0] if names else platform.processor()
    return f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1, 2], help="training seeds (default: 1337 1 2)")
    parser.add_argument("--write", action="store_true", help="put the table between the markers of README.md")
    arguments = parser.parse_args()
    text = table([results(seed) for seed in arguments.seeds])
    print(text)
    if arguments.write:
        readme = ROOT / "README.md"
        before, rest = readme.read_text().split(START)
        readme.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/default_run.py"):
        main()
