"""Write docs/recipes.md: every stack's header, its network with its costs, and the verdict that its certificate got here.

The verdicts come from docs/recipes.csv, which `python benchmarks/recipes.py --write` writes, and rehearsals from docs/rehearsals.json,
which `benchmarks/rehearse.py` and `benchmarks/growth.py` write; everything else comes from the recipes.
"""

import csv
import re
import statistics
import textwrap
from pathlib import Path

from stages.lib.node import closure, files, params
from stages.recipes import catalog, describe, header, own, projection

PAGE, TABLE = closure.ROOT / "docs/recipes.md", closure.ROOT / "docs/recipes.csv"
REHEARSALS, GROWTH = closure.ROOT / "docs/rehearsals.json", "growth"
WIDTH = 130  # of a line of Markdown source
INTRODUCTION = """# The published stacks as recipes

A [stack](glossary.md#stack) is the set of techniques of one entry of the contest, named by its pull request. A recipe is a file in
`stages/recipes/` that sets Caddie up as one stack. It has one line `path: value` for each parameter, so that with it
[params.yaml](../params.yaml) says everything that runs. Where the text of an entry and its code disagree, the recipe follows what was run,
and *As written* names the values that give the other. `python -m stages.recipes --document` writes this page, and a test compares it.

```sh
make recipe NAME=pr1855                # as published: needs the data and the hardware that the recipe names
make rehearse NAME=pr1855              # its sizes, hardly any work: every node measured, half an hour on a CPU
make recipe NAME=pr1855 SCALE=tiny     # every feature on, small sizes, from the built-in text to a certificate in minutes on a CPU
python -m stages.recipes pr1855 --describe     # the layers in the order in which they run, parameters, bytes, FLOPs
python -m stages.recipes --check               # compares the parameters of every stack with the published number
```

**What was run.** No recipe was trained at full size yet; [rehearsals](#rehearsals-at-full-size) took some through two steps. Each with
a verdict ran in its small form on 2 CPU cores; the seconds are those of this run, for most beside other work. The scores of such
small models have no meaning and are not shown. *Bits per byte* in the tables are those of the published runs on the contest's val split;
the first table has the mean over seeds.

*Verdict here* is the verdict of Caddie's audit on the small form of the recipe. The audit replays targets that are withheld, decodes,
counts bytes and follows the lineage of an artifact that was made by the same method ([certification.md](certification.md)). It sees what a
method does and does not know its name. A check that fails in small fails at any size; a check that passes has only passed in small. *Ruled
there* is what the organizers of the contest or its reviewers said; the section of each recipe has it in full.

**Two leaderboards.** The README of the contest's main branch ends with #1855 at 1.0611. Four later rows (#1945, #1953, #2014, #2135)
stand in #2146, the organizers' list of 2 May 2026, which main does not contain. By their last word 1.0565 was accepted, and a reader of
main alone sees 1.0611. *Accepted* here follows #2146.

[`caddie`](#caddie) is a recipe of our own: it puts together what the records and Caddie have. Nobody has run it at full size, so it has a
prediction and no published score.

Floating-point operations (FLOPs) are computed from the network and not measured. This is the rule by which they are counted.

{rule}
"""

PARTS = {
    "prepare": "`prepare`: check, hash and count shards",
    "ledger": "open val with its sidecar, write and read a ledger",
    "harness": "`evaluate`: windows and ledger of `sliding` at stride 64, without the network",
    "push": "`audit`: windows of a replay",
    "byte_count": "`audit`: bytes of every document",
    "overlap": "`audit`: runs of 64 tokens of val, looked up in as much of train",
    "trigrams": "`audit`: the model of three tokens (20 M tokens of train at most)",
    "memorization": "`audit`: drawing documents",
    "text_compressors": "`text_compressors`: xz -9e (per million bytes)",
}
REHEARSED = f"""## Rehearsals at full size

`make rehearse NAME=pr1855` takes a recipe at its published sizes through every node on local text, with hardly any work in each:
`stages/recipes/rehearsal.py` says what is cut. Weights after two steps are almost random, so neither scores nor the bytes of the blob
mean anything. `python benchmarks/rehearse.py NAME --write` keeps what was measured in `docs/rehearsals.json`.

Other work shared the two cores, so the seconds on the clock are two to five times what an idle machine needs. CPU seconds leave out what
runs in the jails of `evaluate` and `audit`, whose processes the referee ends.

The last two columns are the *published* run, projected and not measured: no GPU was used. Work of the network takes the larger of two
times. One is its FLOPs at half of the {projection.PEAK_FP32 / 1e12:g} TFLOPs per second that NVIDIA's data sheet states for float32 on an
H100 SXM5; half is an assumption. The other is {1e6 * projection.LAUNCH_SECONDS:g} microseconds, also assumed, for each kernel that
Python starts. `train` has its published seconds on 8 GPUs. Work of a processor takes what one core took here. For test-time training the
context is that of documents of the mean length; longer documents make it slower. Evaluators that learn, audits and `certify` use one GPU.
Every node has about two seconds of DVC in it. `certify` of all of val is out of reach for these evaluators, because each token costs a pass
over its whole window; `python -m stages.audit.certify RUN --tokens N` certifies the first N.

What reads all of val grows like this, measured without a network at two sizes (`benchmarks/growth.py`). An exponent of 1 is work in
proportion to the text, and below 1 a fixed part is left; 2 would take days.
"""


def write() -> int:
    """Write the page; returns the exit code."""
    with files.atomic(PAGE) as partial:
        partial.write_text(page(), encoding="utf-8")
    return 0


def page() -> str:
    """The page as Markdown."""
    tree, rows = params.read(closure.ROOT / "params.yaml"), certificates(TABLE)
    heads = {name: catalog.read_header(name) for name in catalog.stacks()}
    ordered = sorted(heads, key=lambda name: -_mean(heads[name]))
    parts = [INTRODUCTION.format(rule="\n".join(_wrapped(f"FLOPs: {describe.RULE}."))), "\n".join(_overview(ordered, heads, rows))]
    parts += [
        "\n".join(_section(name, heads[name], describe.describe(catalog.applied(catalog.values(name, tree), tree)), rows.get(name, [])))
        for name in ordered
    ]
    for name in catalog.OWN:
        own_tree = catalog.applied(catalog.values(name, tree), tree)
        described = _section(name, catalog.read_header(name), describe.describe(own_tree), rows.get(name, []))
        parts += ["\n".join([*described, *own.section(own_tree), ""])]
    if REHEARSALS.is_file():
        kept = files.read_json(REHEARSALS, required=(GROWTH,))
        parts += ["\n".join(_rehearsals(kept, heads, tree))]
    return "\n".join(parts).rstrip("\n") + "\n"


def certificates(path: Path) -> dict[str, list[dict]]:
    """The rows of docs/recipes.csv by recipe."""
    found: dict[str, list[dict]] = {}
    with open(path, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            found.setdefault(row["recipe"], []).append(row)
    return found


def _overview(ordered: list[str], heads: dict[str, header.Header], rows: dict[str, list[dict]]) -> list[str]:
    lines = ["| recipe | parameters | steps | published bits per byte | verdict here | ruled there |", "|---|---:|---:|---:|---|---|"]
    for name in ordered:
        verdicts = ", ".join(_brief(row, named=len(rows[name]) > 1) for row in rows.get(name, [])) or "not run"
        lines.append(
            f"| [{name}](#{name}) | {heads[name].parameters:,} | {heads[name].steps:,} | {_mean(heads[name]):.4f} | {verdicts} | "
            f"{_ruled(heads[name])} |"
        )
    return [*lines, ""]


def _section(name: str, head: header.Header, cost: describe.Description, rows: list[dict]) -> list[str]:
    facts = {
        "Source": head.source,
        "Network": f"it has {cost.parameters:,} parameters, which take {cost.stored_bytes:,} bytes as integers and scales before coding. "
        f"A token passes through {len(cost.places)} layers and costs {cost.flops:,} FLOPs in the forward pass"
        + (f", {cost.plain_flops:,} before the recurrence starts" if cost.plain_flops != cost.flops else ""),
        "Training": f"it takes {cost.steps.total:,} steps"
        + (f", {cost.steps.looped:,} of them with the recurrence on" if cost.steps.looped else "")
        + f", {cost.steps.total * cost.batch_tokens:,} tokens and {cost.training_flops:.3g} FLOPs",
        "As run": head.as_run,
        "As written": head.as_written,
        "Deviations": head.deviations,
        "Needs": head.needs,
        "Ruling": head.ruling,
    }
    lines = [
        f"## {name}",
        "",
        *_wrapped(_sentence(head.stack)),
        "",
        "| seed | bits per byte | artifact bytes | training s | evaluation s |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {seed.seed} | {seed.bits_per_byte:.5f} | {seed.artifact_bytes:,} | {_seconds(seed.train_seconds)} | "
        f"{_seconds(seed.evaluate_seconds)} |"
        for seed in head.published
    ]
    lines = [*lines, ""] if head.published else lines[:4]
    for field, value in facts.items():
        lines += _wrapped(f"* **{field}.** {_sentence(value)}")
    for row in rows:
        lines += _wrapped(f"* **Verdict here.** `{row['run']}` is {_verdict(row)}. The small run took {row['seconds']} s.")
    return [*lines, ""]


def _rehearsals(kept: dict, heads: dict[str, header.Header], tree: dict) -> list[str]:
    """The section on rehearsals: what grows with val, then a table per recipe that was rehearsed."""
    growth = kept[GROWTH]
    lines = [REHEARSED, "| part | s per million tokens | exponent | MB per million tokens | s for 47.85 M | s for 62.02 M |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for part, row in growth.items():
        first, second = (row["seconds"] * tokens / 1e6 for tokens in (47_853_344, 62_021_846))
        lines.append(
            f"| {PARTS[part]} | {row['seconds']:.3f} | {row['exponent']:.2f} | {row['bytes'] / 1e6:.1f} | {first:.1f} | {second:.1f} |"
        )
    for name in (name for name in kept if name != GROWTH):
        record = kept[name]
        full = catalog.applied(catalog.values(name, tree), tree)
        lines += ["", *_rehearsal(name, record, projection.rows(full, heads[name], record, growth), describe.describe(full))]
    return [*lines, ""]


def _rehearsal(name: str, record: dict, projected: list[projection.Row], cost: describe.Description) -> list[str]:
    """One rehearsal: what came out, and a row per node."""
    costs = {cost["node"]: cost for cost in record["nodes"]}
    verdicts = "; ".join(
        f"`{run}` is {row['verdict']}" + (f" (fails {', '.join(row['failed'])})" if row["failed"] else "")
        for run, row in record["runs"].items()
    )
    rate = record["train_tokens"] * cost.step_flops / costs["train"]["cpu_seconds"]
    total = sum(cost["seconds"] for cost in costs.values()), sum(cost["cpu_seconds"] for cost in costs.values())
    lines = [
        f"### Rehearsal of {name}",
        "",
        *_wrapped(
            f"{record['hardware']}: {total[0] / 60:.0f} minutes and {total[1]:,.0f} seconds of the processor, "
            f"{max(cost['peak_bytes'] for cost in costs.values()) / 1e9:.1f} GB at most, {record['train_tokens']:,} tokens of training, "
            f"{record['val_tokens']:,} of val. {_sentence(record['package']['size'])} {_sentence(verdicts)} A second of a core did "
            f"{rate / 1e9:.0f} GFLOPs of training; all of the published one would take {cost.training_flops / rate / 86400:,.0f} days."
        ),
        "",
        "| node | s | processor s | peak MB | bytes | grows with | 1 H100, s | 8 H100, s |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in projected:
        cost = costs.get(row.node)
        here = (
            f"{cost['seconds']:,.0f} | {cost['cpu_seconds']:,.0f} | {cost['peak_bytes'] / 1e6:,.0f} | {cost['output_bytes']:,}"
            if cost
            else " | | | "
        )
        lines.append(f"| `{row.node}` | {here} | {row.grows} | {_projected(row.one)} | {_projected(row.eight)} |")
    return lines


def _projected(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f}"


def _sentence(value: str) -> str:
    return value[0].upper() + value[1:].removesuffix(".") + "."


def _wrapped(value: str) -> list[str]:
    return textwrap.wrap(value, WIDTH, subsequent_indent="  " * value.startswith("* "), break_long_words=False, break_on_hyphens=False)


def _verdict(row: dict) -> str:
    return f"{row['verdict']} (fails {', '.join(row['failed'].split())})" if row["failed"] else row["verdict"]


def _brief(row: dict, *, named: bool) -> str:
    failed = row["failed"].split()
    return f"`{row['run']}` " * named + (f"{row['verdict']} (fails {len(failed)} checks)" if len(failed) > 1 else _verdict(row))


def _ruled(head: header.Header) -> str:
    """The ruling in a word; the full text says whether it is an organizer's or follows from the conditions alone."""
    word = "accepted" if head.ruling.startswith("accepted") else "not legal"
    is_silent = re.search(r"no organizer ruled|ruling was asked for and none given", head.ruling, re.IGNORECASE)
    return f"{word} by the conditions, no organizer ruled" if is_silent else word


def _mean(head: header.Header) -> float:
    return statistics.mean(seed.bits_per_byte for seed in head.published)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
