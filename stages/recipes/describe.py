"""Describe a recipe's network and its costs: layers in the order in which they run, parameters and bytes by group, FLOPs.

All is measured on the network itself, built at full size on the meta device (places.py; lib/training/flops.py has the counting rule).
"""

from dataclasses import dataclass, fields

import torch

from stages.lib.node.params import require
from stages.lib.quant import groups as quantized
from stages.lib.training import flops
from stages.recipes import budget, places
from stages.runtime.network import gpt
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.features import TRAINING_ONLY

SCALE_BYTES, REST_BITS = 2, 16  # a float16 scale for each row of codes; parameters that are not quantized are stored as float16
TERNARY_BITS = 2
BYTES_VOCABULARY = 260
RULE = (
    "2 per multiply-add of every matrix, the head included, and of attention over the causal average of (T + 1) / 2 keys; a layer "
    "counts each time it runs; training is three times the forward pass"
)


@dataclass
class Group:
    """Parameters of one kind. `bits`: per parameter in the artifact, before the codec; `scales`: number of rows with their own scale."""

    name: str
    bits: int
    parameters: int = 0
    scales: int = 0

    @property
    def stored_bytes(self) -> int:
        return -(-self.parameters * self.bits // 8) + self.scales * SCALE_BYTES


@dataclass(frozen=True)
class Description:
    """A network and its costs. `places` are those with the recurrence on. FLOPs are per token: `flops` of a forward pass, `step_flops` of a
    training step; names with `plain` are for the time before the recurrence starts. The head counts in `end_flops`."""

    places: list[places.Place]
    front_features: list[str]
    front_flops: int
    end_features: list[str]
    end_flops: int
    flops: int
    plain_flops: int
    step_flops: int
    plain_step_flops: int
    groups: list[Group]
    steps: budget.Steps | None
    batch_tokens: int
    sequence_length: int

    @property
    def parameters(self) -> int:
        return sum(group.parameters for group in self.groups)

    @property
    def stored_bytes(self) -> int:
        return sum(group.stored_bytes for group in self.groups)

    @property
    def training_flops(self) -> int | None:
        """FLOPs of the whole run; None if its number of steps is not known."""
        if self.steps is None:
            return None
        return self.batch_tokens * (self.steps.plain * self.plain_step_flops + self.steps.looped * self.step_flops)


def network(tree: dict) -> places.Watched:
    """The network that the parsed params.yaml asks for, with shapes but without values. ValueError for impossible sizes."""
    section, vocabulary = tree["model"], tree["vocabulary"]
    size = BYTES_VOCABULARY if vocabulary["source"] == "bytes" else vocabulary["size"]
    names = [field.name for field in fields(ModelConfig) if field.name != "vocabulary_size"]
    for name in names:
        require(name in section, f"params.yaml: model.{name} is missing; add it (git diff params.yaml shows what was removed)")
    with torch.device("meta"):
        return places.Watched(ModelConfig(vocabulary_size=size, **{name: section[name] for name in names}))


def describe(tree: dict) -> Description:
    """The description for a parsed params.yaml."""
    train, features, net = tree["train"], tree["model"]["features"], network(tree)
    parts = groups(net, tree["quantize"])
    looped = plain = places.run(net, length=train["sequence_length"])
    if "depth_recurrence" in features:
        net.progress(step=0, fraction=0.0)
        plain = places.run(net, length=train["sequence_length"])
    extra = flops.auxiliary(net, length=train["sequence_length"])
    return Description(
        looped.places,
        looped.front_features,
        looped.front_flops,
        looped.end_features,
        looped.end_flops,
        looped.flops,
        plain.flops,
        flops.TRAINING * (looped.flops + extra),
        flops.TRAINING * (plain.flops + extra),
        parts,
        budget.steps(train, features),
        train["batch_tokens"],
        train["sequence_length"],
    )


def groups(net: gpt.GPT, quantize: dict) -> list[Group]:
    """Every parameter in exactly one group: the embedding, matrices and vectors of the layers, and each feature."""
    found: dict[str, Group] = {}
    group_of, matrices = quantized.by_parameter(net), {f"{name}.weight" for name in gpt.matrices(net)}
    for name, weight in net.named_parameters():
        settings, is_matrix = quantize["groups"].get(group_of.get(name)), name in matrices
        is_coded = settings is not None and settings["method"] != "none" and weight.numel() >= quantize["min_elements"]
        bits = _bits(settings) if is_coded else REST_BITS
        top, *rest = name.split(".")
        kind = top if top != "blocks" else f"{rest[1]} matrices" if is_matrix else "layer vectors"
        kind += " projection" * (is_matrix and top != "blocks") + " table" * (group_of.get(name) == "table")
        if top in TRAINING_ONLY:
            kind, bits, is_coded = f"{top}, not in the artifact", 0, False
        group = found.setdefault(kind, Group(kind, bits))
        group.parameters += weight.numel()
        group.scales += weight.numel() // weight.size(-1) * is_coded
    return list(found.values())


def _bits(settings: dict) -> int:
    return TERNARY_BITS if settings["method"] == "ternary" else settings["bits"]


def text(name: str, tree: dict) -> str:
    """The description as text for a terminal."""
    found = describe(tree)
    rows = [("place", "layer", "visit", "reads", "MFLOPs", "features that act there")]
    if found.front_features or found.front_flops:
        rows.append(("-", "front", "", "", _millions(found.front_flops), " ".join(found.front_features)))
    rows += [
        (
            str(i),
            str(place.layer),
            str(place.visit),
            "" if place.reads is None else str(place.reads),
            _millions(place.flops),
            " ".join(sorted(place.features)),
        )
        for i, place in enumerate(found.places)
    ]
    rows.append(("-", "head", "", "", _millions(found.end_flops), " ".join(found.end_features)))
    lines = [
        f"{name}: layers in the order in which they run; reads: the place whose output is merged as a skip; FLOPs per token, forward",
        "",
        *_aligned(rows, left=5),
        "",
    ]
    rows = [("group", "parameters", "bytes in fp32", "bits", "bytes stored")]
    rows += [
        (group.name, f"{group.parameters:,}", f"{4 * group.parameters:,}", str(group.bits), f"{group.stored_bytes:,}")
        for group in found.groups
    ]
    rows.append(("total", f"{found.parameters:,}", f"{4 * found.parameters:,}", "", f"{found.stored_bytes:,}"))
    lines += [*_aligned(rows, left=0), "", "bytes stored: codes and float16 scales, before the codec", ""]
    return "\n".join([*lines, *costs(found)])


def costs(found: Description) -> list[str]:
    """FLOPs, steps and tokens, one sentence each."""
    lines = [f"FLOPs per token, forward: {found.flops:,} in rows of {found.sequence_length} tokens"]
    if found.plain_flops != found.flops:
        lines[0] += f", {found.plain_flops:,} before the recurrence starts"
    lines.append(f"FLOPs per token, training: {found.step_flops:,}")
    if found.steps is None:
        lines.append("steps: as many as fit into train.seconds of real time; set train.clock to know them")
    else:
        looped = f", {found.steps.looped:,} of them with the recurrence on" if found.steps.looped else ""
        lines.append(
            f"training: {found.steps.total:,} steps{looped}, {found.steps.total * found.batch_tokens:,} tokens, "
            f"{found.training_flops:.4g} FLOPs"
        )
    return [*lines, f"counted: {RULE}"]


def _millions(flops: int) -> str:
    return f"{flops / 1e6:.3f}"


def _aligned(rows: list[tuple[str, ...]], *, left: int) -> list[str]:
    """Rows as lines with aligned columns: numbers on the right, the column `left` on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
