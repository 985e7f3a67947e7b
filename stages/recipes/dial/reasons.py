"""Why each number of a plan is what it is, in words: the plan as text for a terminal and for the head of a recipe file."""

import textwrap

from stages.recipes.dial import plan as rule
from stages.recipes.dial import rules
from stages.recipes.dial.hardware import Hardware
from stages.recipes.dial.pilot import SIZES as PILOT
from stages.recipes.dial.pilot import Trained
from stages.recipes.dial.plan import Asked, Plan
from stages.recipes.dial.text import Text

WIDTH = 132


def reasons(plan: Plan, text: Text, machine: Hardware, pilot: Trained, asked: Asked) -> list[tuple[str, str, str]]:
    """(path or name, value, reason) of every number."""
    sizes, facts, values = plan.sizes, plan.facts, plan.values
    return [
        ("text", f"{text.bytes:,} bytes", _of_text(text)),
        ("machine", f"{machine.gpus} {machine.name}" if machine.gpus else f"{machine.threads} threads", _of_machine(machine, facts)),
        (
            "pilot",
            f"{pilot.bits_per_byte:.4f}",
            f"bits per byte of {PILOT.layers} layers of width {PILOT.width} after {PILOT.tokens:,} tokens of this text, in plain windows; "
            f"{pilot.memory_bits_per_byte:.4f} by `memory`",
        ),
        *([] if values["prepare.source"] == "fineweb" else _of_splits(plan, text)),
        (
            "vocabulary.size",
            f"{sizes.vocabulary:,}",
            f"{facts.bytes_of_token:.2f} bytes a token; they take {sizes.vocabulary * sizes.width / facts.parameters:.0%} of the "
            f"weights and come {facts.unique / sizes.vocabulary:,.0f} times each; the largest with {rule.PIECE_SHARE:.0%} at most and "
            f"{rule.PIECE_SEEN} times at least, and never below {rule.VOCABULARIES[0]}",
        ),
        (
            "model.num_layers",
            f"{sizes.layers}",
            f"{rule.LAYERS[0]} at {rule.AT_WEIGHTS[0] / 1e6:.0f} million weights that multiply, {rule.LAYERS[1]} at "
            f"{rule.AT_WEIGHTS[1] / 1e6:.0f}; here {rules.weights(sizes) / 1e6:.2f} million",
        ),
        (
            "model.width",
            f"{sizes.width}",
            f"the lowest predicted score of {len(rule.WIDTHS)} widths: {facts.parameters:,} parameters, and {sizes.tokens:,} tokens for "
            f"{rules.training_flops(sizes):.3g} FLOPs",
        ),
        ("train.sequence_length", f"{sizes.context:,}", ("given" if asked.context else _between(rule.CONTEXT)) + "; all windows follow it"),
        ("train.batch_tokens", f"{sizes.batch_tokens:,}", _between(rule.BATCH)),
        (
            "train.steps",
            f"{values['train.steps']:,}",
            f"{sizes.tokens:,} tokens, {facts.epochs:.2f} epochs"
            + (f" in the {sizes.steps:,} steps that are expected; train.seconds ends the run" if machine.gpus else ""),
        ),
        (
            "train.matrix_learning_rate",
            f"{sizes.matrix_learning_rate:g}",
            "that of the default and of the naive baseline; embedding and scalars have half of it",
        ),
        (
            "quantize.entropy",
            "to the cap" if values["quantize.entropy.target_bytes"] else f"{facts.bits:.2f} bits",
            f"{facts.parameters:,} weights at {facts.bits:.2f} bits are {facts.parameters * facts.bits / 8:,.0f} bytes of "
            f"{asked.cap_bytes:,}",
        ),
        (
            "memory.bytes",
            f"{values['memory.bytes']:,}",
            f"{facts.remembered:,.0f} tokens of the training text ship, about {rule.PACKED_TOKEN} bytes each",
        ),
        (
            "evaluate.runs",
            ", ".join(values["evaluate.runs"]),
            f"both are causal; `memory` ships: it is lower for networks of up to {rule.LARGEST_FOR_MEMORY:,.0f} weights that multiply"
            if "memory" in values["evaluate.runs"]
            else f"`memory` needs {rule.LEAST_FOR_MEMORY:,} bytes of text that ship, and gains nothing for networks of more than "
            f"{rule.LARGEST_FOR_MEMORY:,.0f} weights that multiply",
        ),
    ]


def _of_splits(plan: Plan, text: Text) -> list[tuple[str, str, str]]:
    facts, values = plan.facts, plan.values
    return [
        (
            "prepare.val_fraction",
            f"{facts.val_share:g}",
            f"{facts.val_share * facts.used_bytes:,.0f} bytes, and as many of holdout: {rule.VAL_BYTES:,}, at most {rule.MOST_VAL:.0%} of "
            f"the text, but not fewer than about {rule.VAL_DOCUMENTS} documents",
        ),
        (
            ("prepare.max_bytes", f"{values['prepare.max_bytes']:,}", f"{rule.ENOUGH} times what the training sees")
            if values["prepare.max_bytes"]
            else (
                "prepare.fraction",
                f"{values['prepare.fraction']:g}",
                f"{facts.used_bytes:,} bytes in documents that are drawn from the whole text, {rule.ENOUGH} times what the training sees"
                if values["prepare.fraction"] < 1
                else "all of the text",
            )
        ),
    ]


def _of_text(text: Text) -> str:
    if text.val_bytes:
        return f"the shards of the contest, not looked at: {text.documents:,} documents if they are as long as those of val"
    return (
        f"{text.documents:,} documents{'' if text.is_whole else ' at its beginning'}, of which {text.duplicates:,} repeat an earlier one "
        f"({text.duplicate_share:.1%} of the bytes); language: {text.language}"
    )


def _of_machine(machine: Hardware, facts: rule.Facts) -> str:
    return (
        f"{machine.rate / 1e9:,.0f} GFLOPs a second{' each' * (machine.gpus > 0)}, "
        f"{'measured' if machine.is_measured else 'ASSUMED: the peak of its data sheet'}; training reaches {facts.rate_share:.0%} of it"
        f"{', ASSUMED: as the naive baseline did' * (machine.gpus > 0)}; {machine.memory / 1e9:.0f} GB of memory"
    )


def _between(values: tuple[int, int]) -> str:
    return f"{values[0]:,} at {rule.TOKENS:,.0f} tokens of training, {values[1]:,} at {rule.LARGE_TOKENS:,.0f}"


def told(plan: Plan, text: Text, machine: Hardware, pilot: Trained, asked: Asked) -> str:
    """The plan as text: a number a line with its reason, then what to expect."""
    rows, values = reasons(plan, text, machine, pilot, asked), plan.values
    others = ", ".join(f"{node} {value:,.0f}" for node, value in plan.seconds.items() if node != "train")
    rows += [
        ("", "", ""),
        (
            "expected score",
            f"{plan.score:.3f} ± {plan.error:.1%}",
            f"bits per byte of val by `{values['package.evaluator']}`; {plan.network_score:.3f} in plain windows",
        ),
        ("expected seconds", f"{sum(plan.seconds.values()):,.0f}", f"train {plan.seconds['train']:,.0f}, {others}"),
    ]
    if plan.beyond:
        rows.append(("beyond what was measured", "", f"{plan.beyond}: the score is extrapolated, and its error is a guess"))
    lines = []
    for name, value, why in rows:
        head = f"{name:27}{value:>16}  "
        wrapped = textwrap.wrap(why, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)
        lines += wrapped or [head.rstrip()]
    return "\n".join(lines)
