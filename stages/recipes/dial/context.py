"""The width of the context of a recipe that was sized here, and everything that follows it. Nothing else sets these values.

The windows of `memory` are three quarters of the context, as in params.yaml: a stream then passes each token through the network once.
"""

from collections.abc import Iterator

ROWS = 32  # windows of an evaluator's pass
WIDE = (
    "train.sequence_length",
    "ema.window",
    "prequant_ttt.sequence_length",
    "calibrate.sequence_length",
    "sensitivity.sequence_length",
    "plain_score.window",
)
OPTIONS = {"sliding": {"window": 1, "stride": 1 / 2}, "memory": {"window": 3 / 4, "block": 1}}  # shares of the context
MEMORY = {"order": 8, "document": 3, "reset_at": 1, "primed": 3, "discount": 0.7, "strength": -0.5, "rate": 0.1, "every": 16}
OTHERS = {"sliding": {"batch": ROWS}, "memory": {"network": "streaming"} | MEMORY}


def follows(tokens: int) -> dict:
    """Values by path of everything that has the width of the context or a share of it."""
    options = {name: {option: round(share * tokens) for option, share in OPTIONS[name].items()} | OTHERS[name] for name in OPTIONS}
    return {path: tokens for path in WIDE} | {
        "package.evaluators": list(OPTIONS),
        "package.evaluator": "memory",
        "package.options": options["memory"],
        "package.other_options": {"sliding": options["sliding"]},
        "evaluate.runs": {name: {"evaluator": name, "options": options[name]} for name in OPTIONS},
    }


def without_memory(tokens: int) -> dict:
    """Values by path of the evaluators alone, where `memory` gains nothing."""
    sliding = follows(tokens)["package.other_options"]["sliding"]
    return {
        "package.evaluators": ["sliding"],
        "package.evaluator": "sliding",
        "package.options": sliding,
        "package.other_options": {},
        "evaluate.runs": {"sliding": {"evaluator": "sliding", "options": sliding}},
    }


def check(found: dict, name: str) -> None:
    """ValueError if a value of the recipe `name` contradicts the width of its context, which is train.sequence_length."""
    tokens = found["train.sequence_length"]
    for path, value, share in _wide(found):
        if value != round(share * tokens):
            raise ValueError(
                f"{name}: {path} is {value!r}, but train.sequence_length makes the context {tokens} tokens wide, from which "
                f"{round(share * tokens)} follows; size the recipe again with --context, or change all that follows it: "
                f"{', '.join(path for path, *_ in _wide(found))}"
            )


def _wide(found: dict) -> Iterator[tuple[str, object, float]]:
    """(path, value, share of the context) of everything that follows it; the value is None where the recipe leaves it out."""
    for path in WIDE:
        yield path, found.get(path), 1
    runs = found.get("evaluate.runs", {})
    options = {"package.options": (found.get("package.evaluator"), found.get("package.options", {}))}
    options |= {f"package.other_options.{name}": (name, chosen) for name, chosen in found.get("package.other_options", {}).items()}
    options |= {f"evaluate.runs.{run}.options": (settings["evaluator"], settings["options"]) for run, settings in runs.items()}
    for path, (evaluator, chosen) in options.items():
        for option, share in OPTIONS.get(evaluator, {}).items():
            yield f"{path}.{option}", chosen.get(option), share
