"""Made-up submission folders in the manner of the contest: one log for each seed, submission.json, README, scripts."""

import json
import math

EXPORTS = {"sp1024": (62_021_632, 151_080_363), "sp8192": (40_540_160, 151_078_222), "caseops": (47_851_520, 151_074_499)}
SEEDS, BITS = (42, 314, 999), (1.08079352, 1.08103103, 1.08118408)


def nats(bits, export="sp8192", ratio=1.0):
    """The val_loss beside `bits` if the bytes are `ratio` times the right ones."""
    targets, total = EXPORTS[export]
    return bits * math.log(2) * total * ratio / targets


def log(
    bits=BITS[0],
    *,
    seed=42,
    export="sp8192",
    ratio=1.0,
    size=15_991_930,
    train=588_047,
    seconds=366.5,
    name="quantized_ttt",
    before="",
    after="",
    shards=80,
):
    return f"""seed: {seed}
world_size: 8
val_tokens: {EXPORTS[export][0]}
train_shards: {shards}
{before}
stopping_early: wallclock_cap train_time: {train}ms step: 4550/20000
Code size: 16594 bytes
Total submission size quantized+brotli: {size} bytes
{name} val_loss:{nats(bits, export, ratio):.8f} val_bpb:{bits:.8f} eval_time:{seconds * 1000:.0f}ms
{after}
"""


def write(
    root,
    *,
    name="2026-04-01_Ours",
    claims=None,
    readme="Trained on 8xH100.",
    script=None,
    seeds=SEEDS,
    bits=BITS,
    each=None,
    files=None,
    **changes,
):
    """A folder that is clean unless something is changed. `each` maps a seed to changes of its log alone."""
    folder = root / name
    folder.mkdir(parents=True)
    for seed, value in zip(seeds, bits, strict=False):
        (folder / f"train_seed{seed}.log").write_text(log(value, seed=seed, **(changes | (each or {}).get(seed, {}))))
    mean = sum(bits[: len(seeds)]) / max(1, len(seeds))
    stated = {"val_bpb": round(mean, 8), "hardware": "8xH100 80GB SXM", "seeds": list(seeds)}
    (folder / "submission.json").write_text(json.dumps(stated | (claims or {})))
    (folder / "README.md").write_text(readme)
    if script is not None:
        (folder / "train_gpt.py").write_text(script)
    for file, content in (files or {}).items():
        (folder / file).write_text(content)
    return folder
