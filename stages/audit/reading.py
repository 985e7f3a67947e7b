"""What a script does with validation tokens, as far as its syntax tree shows: hints for a reviewer, never a verdict.

In every function that names validation tokens, these statements are found and compared by their order in the source:

    score    x += ... or x.add_(...) where x is a sum of losses           (loss_sum, nll_total, val_loss_sum, ...)
    update   y.backward(), optimizer.step(...), autograd.grad(...)

    update and no score                      -> the weights learn the validation text and no score of it is kept
    update before score, in one loop         -> the scored tokens were learned first (SLOT, last-epoch scoring)
    score before update, in one loop         -> score first: what the rules allow

Four kinds of expressions are looked for too: a fitted parameter that has no axis of windows although windows come in batches; a target
inside a hash; a gate that is indexed by the target; the smaller of several losses. Only names tell what is a target or a loss, so a
renamed variable hides a leak and an unlucky name accuses honest code. Source: reference of the referee, §3.5 and S1.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

VALIDATION = re.compile(r"(^|_)(val|valid|validation)(_|$)|^val_?(tokens|data|np|ids)")
LOSS_SUM = re.compile(r"(loss|nll|nats|bits|bpb|ce).*(sum|total|acc)|(sum|total|acc).*(loss|nll|nats|bits|ce)|^(loss|nll)es?$")
TARGET = re.compile(r"^(y|ys|tgt|tgts|target|targets|label|labels)(_|$|\d)|_(tgt|target|targets|labels)(_|$)")
OPTIMIZER = re.compile(r"opt|adam|sgd|muon|lbfgs", re.IGNORECASE)
CALIBRATION = re.compile(r"hessian|calib|gptq|quanti[sz]e", re.IGNORECASE)
GATE = re.compile(r"gate|hint|boost|tilt|within|alpha|bonus", re.IGNORECASE)
BATCH = re.compile(r"batch|bsz|seqs|windows", re.IGNORECASE)
NETWORK = ("requests", "urllib", "http", "socket", "huggingface_hub", "datasets", "boto3", "ftplib", "paramiko")


@dataclass(frozen=True)
class Hint:
    """One finding: `kind` is a word for tables, `text` a sentence for people, `against` says whether it would break a rule."""

    kind: str
    where: str
    text: str
    against: bool


def hints(name: str, tree: ast.Module) -> list[Hint]:
    """All hints of one module, in the order of its lines."""
    found = []
    for function in _functions(tree):
        found += _of_function(f"{name}: {function.name}, line {function.lineno}", function)
    found += _calibration(name, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [
                Hint("network", f"{name}, line {node.lineno}", f"imports {module}, which reaches the network", False)
                for module in modules
                if module.split(".")[0] in NETWORK
            ]
    return found


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that are no part of another function: a closure is read with the function around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With | ast.For | ast.While):
            yield from _functions(node)


def _of_function(where: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Hint]:
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} | {
        node.arg for node in ast.walk(function) if isinstance(node, ast.arg)
    }
    names |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    if not any(VALIDATION.search(name) for name in names):
        return []
    found = [*_order(where, function), *_expressions(where, function)]
    if any(hint.kind in ("adapts first", "trains on val", "score first") for hint in found):
        found += _shared(where, function, names)
    return found


def _order(where: str, function: ast.AST) -> list[Hint]:
    """Update and score in the smallest loop that holds both."""
    scores, updates = [node for node in ast.walk(function) if _is_score(node)], [node for node in ast.walk(function) if _is_update(node)]
    if not updates:
        return []
    if not scores:
        return [
            Hint(
                "trains on val",
                where,
                f"updates parameters with validation tokens (line {updates[0].lineno}) and keeps no score of "
                "them: if this is not the training on the train split, the artifact has learned the text that it is scored on",
                True,
            )
        ]
    loops = [node for node in ast.walk(function) if isinstance(node, ast.For | ast.While)]
    shared = [loop for loop in loops if _holds(loop, scores) and _holds(loop, updates)]
    smallest = max(shared, key=_start, default=function)  # of nested loops, the innermost starts last
    first_score = min(_start(node) for node in scores if _holds(smallest, [node]))
    first_update = min(_start(node) for node in updates if _holds(smallest, [node]))
    if first_update < first_score:
        return [
            Hint(
                "adapts first",
                where,
                f"updates parameters (line {first_update[0]}) before the sums of the score (line "
                f"{first_score[0]}): if the objective holds the tokens that are scored, the score is no code length",
                True,
            )
        ]
    return [Hint("score first", where, f"adds to the sums (line {first_score[0]}) before it updates (line {first_update[0]})", False)]


def _start(node: ast.AST) -> tuple[int, int]:
    """Line and column: packed scripts have many statements on a line."""
    return node.lineno, node.col_offset


def _holds(node: ast.AST, parts: list[ast.AST]) -> bool:
    return any(
        _start(node) <= _start(part) and (part.end_lineno, part.end_col_offset) <= (node.end_lineno, node.end_col_offset) for part in parts
    )


def _is_score(node: ast.AST) -> bool:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return bool(LOSS_SUM.search(_name(node.target)))
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("add_", "append", "index_add_")
        and bool(LOSS_SUM.search(_name(node.func.value)))
    )


def _is_update(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    owner = _name(node.func.value)
    return (
        node.func.attr == "backward"
        or (node.func.attr == "step" and bool(OPTIMIZER.search(owner)) and "sched" not in owner)
        or (node.func.attr == "grad" and owner == "autograd")
    )


def _name(node: ast.AST) -> str:
    """The last word of a name, attribute, subscript or call: x, a.x, x[i] and x() are all `x`."""
    while isinstance(node, ast.Subscript | ast.Call | ast.Starred):
        node = node.value if not isinstance(node, ast.Call) else node.func
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _shared(where: str, function: ast.AST, names: set[str]) -> list[Hint]:
    """Parameters of fixed shape that are fitted while windows come in batches: torch.zeros(1, 1, d, requires_grad=True) and the like."""
    if not any(BATCH.search(name) for name in names):
        return []
    fitted = {
        name
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and OPTIMIZER.search(_name(node.func))
        for argument in node.args[:1]
        for name in _names(argument)
    }
    found = []
    for node in ast.walk(function):
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            continue
        made = next(
            (
                part
                for part in ast.walk(node.value)
                if isinstance(part, ast.Call) and _name(part.func) in ("zeros", "empty", "randn", "ones") and part.args
            ),
            None,
        )
        name = node.targets[0].id
        wants = any(isinstance(part, ast.keyword) and part.arg == "requires_grad" for part in ast.walk(node.value)) or name in fitted
        if made is None or not wants:
            continue
        axes = made.args[0].elts if isinstance(made.args[0], ast.Tuple | ast.List) else made.args
        leading = axes[:-1]
        if all(isinstance(axis, ast.Constant) and axis.value == 1 for axis in leading):
            shape = ", ".join(map(ast.unparse, axes))
            found.append(
                Hint(
                    "shared",
                    where,
                    f"fits {name} of shape ({shape}) (line {node.lineno}), which has no axis of windows: "
                    "windows of one batch overlap, so the targets of one are the context of another",
                    True,
                )
            )
    return found


def _expressions(where: str, function: ast.AST) -> list[Hint]:
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor) and any(TARGET.search(name) for name in _names(node)):
            found.setdefault(
                "target in hash",
                Hint(
                    "target in hash",
                    where,
                    f"a hash contains the target (line {node.lineno}): what is looked up for the realized token alone is no distribution",
                    True,
                ),
            )
        if isinstance(node, ast.Assign) and any(GATE.search(_name(target)) for target in node.targets):
            for part in ast.walk(node.value):
                if isinstance(part, ast.Subscript) and any(TARGET.search(name) for name in _names(part.slice)):
                    found.setdefault(
                        "target in gate",
                        Hint(
                            "target in gate",
                            where,
                            f"{_name(node.targets[0])} is looked up by the target (line {node.lineno}): the "
                            "distribution then depends on the token that it is for",
                            True,
                        ),
                    )
        if isinstance(node, ast.Call) and _name(node.func) in ("min", "minimum", "argmin", "amin"):
            words = [name for argument in node.args for name in _names(argument)]
            if any(re.search(r"nll|loss|bpb", word) for word in words):
                found.setdefault(
                    "best of several",
                    Hint(
                        "best of several",
                        where,
                        f"takes the smaller of several losses (line {node.lineno}): a decoder cannot know which it was",
                        True,
                    ),
                )
    return list(found.values())


def _calibration(name: str, tree: ast.Module) -> list[Hint]:
    """Validation tokens handed to something that calibrates or quantizes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and CALIBRATION.search(_name(node.func)) and not _name(node.func).startswith(("eval", "dequant")):
            words = [word for argument in [*node.args, *(keyword.value for keyword in node.keywords)] for word in _names(argument)]
            if any(VALIDATION.search(word) for word in words):
                found.append(
                    Hint(
                        "val in calibration",
                        f"{name}, line {node.lineno}",
                        f"{_name(node.func)} is given validation tokens: the artifact depends on the text it is scored on",
                        True,
                    )
                )
    return found


def _names(node: ast.AST) -> list[str]:
    return [part.id if isinstance(part, ast.Name) else part.attr for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
