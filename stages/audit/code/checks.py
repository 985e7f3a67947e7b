"""Expressions that are wrong by themselves, whatever the order: flow.py asks at each of them.

target in hash        a table is looked up by a hash that contains the target, so the values are no distribution (#779)
target in gate        a table indexed by the target decides what the distribution is (#1420, #2118)
best of several       the smaller of two losses of the same tokens is kept (#659)
byte mixture          the log-probability of a token is spread evenly over its bytes (#1902)
batch-shared          a parameter that all windows of a batch share is fitted to them (#1306, #1350, #1415)
two passes            statistics of all tokens are counted before the first is scored (#846 to #959)
val in calibration    validation tokens reach what calibrates the quantizer (#728)
two orders            hints follow the order of the stream, scores the length of documents (#2135)
"""

import re

from stages.audit.code import names
from stages.audit.code.domain import Frame, Value, names_of, together
from stages.audit.code.names import BYTES, CONTEXT, GRAD, HASH, LOOKED, LOSS, PROB, PROPERTY, RANDOM, SELF, SUM, TARGET, TRAIN, VAL
from stages.audit.code.syntax import Node

HASH_NAME = re.compile(r"hash|bucket|slot_?id|(^|_)keys?(_|$)|(^|_)h\d*$")
HINTS = re.compile(
    r"(build|pre_?compute|prepare|make|compute|get|gen)\w*(hint|ngram|tilt)|(ngram|hint|tilt)\w*(build|precompute|hints?)|^hints?_for",
    re.IGNORECASE,
)
BATCH = re.compile(r"batch|bsz|(^|_)seqs(_|$)|per_rank", re.IGNORECASE)
ONE_BY_ONE = re.compile(r"unsqueeze\(0\)|\[None")
LENGTH_ORDER = re.compile(r"len|length|num_tok|size", re.IGNORECASE)
BY_LENGTH = re.compile(r"doc.*key ?= ?lambda \w+: ?\w+(\[\d\])?\[(1|-1)\]")  # documents are pairs of start and length
MIXES = re.compile(r"ppm|mix|byte_prob|lam(bda)?(_|$)|logaddexp|blend", re.IGNORECASE)
BEST = "takes the smaller of several losses of the same tokens: a decoder cannot know which it was"
RATE = re.compile(r"(^|_)(lr|eta|alpha|rate|step_size|learning_rate)(_|$|\d)")


class Checks:
    """Collects findings: (kind, line, function, sentence)."""

    def __init__(self):
        self.findings: dict[tuple[str, str], tuple[int, str]] = {}
        self.facts: dict[str, tuple] = {}  # what is no finding by itself: kind -> (line, ...)
        self.learned_in: set[int] = set()  # frames in which validation tokens are learned
        self.hashes: list[tuple[int, str]] = []
        self.running: list[tuple[Node, str, set[int]]] = []  # a running best, and the frames around it
        self.found_by_hash = self.counted_by_hash = False

    def note(self, kind: str, node: Node, sentence: str) -> None:
        where = self.frame.function.name if self.frame.function else ""
        self.findings.setdefault((kind, where), (node.line, sentence))

    def sees_val(self, value: Value) -> bool:
        return VAL in value.tags or (self.frame.data_is_val and not value.tags & {TRAIN, RANDOM})

    # Hashes

    def mixed(self, left: Value, right: Value, node: Node) -> Value:
        """left ^ right: a hash of a target if one side holds the target."""
        tags = left.tags | right.tags
        if TARGET in tags or HASH in tags:
            if HASH not in tags:
                self.hashes.append((node.line, self.frame.function.name if self.frame.function else ""))
            tags = (tags | {HASH}) - {TARGET}
        return Value(tags)

    def hashed(self, name: str, value: Value, node: Node) -> Value:
        """A product and remainder that is called a hash or key is one, too."""
        right = node.field("right")
        if TARGET not in value.tags or HASH in value.tags or right is None or not HASH_NAME.search(name):
            return value
        text = right.text[:400]
        if re.search(r"[%&]|hash|prime|mult|\* *\w*\d{4,}", text, re.IGNORECASE) and re.search(r"[*%]|hash\(", text):
            self.hashes.append((node.line, self.frame.function.name if self.frame.function else ""))
            return Value((value.tags | {HASH}) - {TARGET})
        return value

    def counted(self, index: Value, node: Node) -> None:
        if HASH in index.tags:
            self.counted_by_hash = True

    def finish(self) -> None:
        """What only the whole module tells. A hash of the target that only counts, after the score, is no look-up."""
        for node, where, frames in self.running:
            if frames & self.learned_in:
                self.findings.setdefault(("best of several", where), (node.line, BEST))
        if self.hashes and (self.found_by_hash or not self.counted_by_hash):
            line, where = self.hashes[0]
            self.findings.setdefault(
                ("target in hash", where),
                (line, "a hash contains the target: what is looked up for the realized token alone is no distribution"),
            )

    # Gates and choices

    def check_assignment(self, name: str, value: Value, node: Node) -> None:
        if names.GATE.search(name) and LOOKED in value.tags and not {LOSS, PROB} & value.tags and not re.search("byte", name):
            self.note(
                "target in gate", node, f"{name} is looked up by the target: the distribution then depends on the token that it is for"
            )
        right = node.field("right")
        if right is None or node.kind != "assignment":
            return
        made = next(
            (part for part in right.walk() if part.kind == "call" and names_of(part) in ("zeros", "empty", "randn", "ones", "full")), None
        )
        if made is not None:
            self.frame.fitted.append((name, made, right.text[:400]))

    def check_condition(self, condition: Node, value: Value, body: Node) -> None:
        """`if table[target]:` around a hint or a loss."""
        if PROPERTY in value.tags:
            for part in body.walk():
                if part.kind in ("assignment", "augmented_assignment"):
                    name = names_of(part.field("left"))
                    if names.GATE.search(name) or (LOSS in names.tags(name) and BYTES not in names.tags(name)):
                        self.note(
                            "target in gate",
                            condition,
                            f"a table indexed by the target decides about {name}: the distribution depends on the token that it is for",
                        )
                        return
        if condition.kind == "comparison_operator" and len(condition.children) == 2 and set(condition.operators) & {"<", ">", "<=", ">="}:
            sides = [names_of(part) for part in condition.children]
            values = [self.value(part) for part in condition.children]
            if all(LOSS in side.tags for side in values) and any(self.sees_val(side) for side in values):
                for part in body.walk():
                    if part.kind == "assignment" and names_of(part.field("left")) in sides and names_of(part.field("right")) in sides:
                        self.best(part, names_of(part.field("left")))

    def best(self, node: Node, kept: str) -> None:
        """A running best is what a training loop prints, unless the weights learn validation tokens meanwhile."""
        where = self.frame.function.name if self.frame.function else ""
        if re.search(r"best|min|lowest", kept):
            self.running.append((node, where, {frame.number for frame in self.frames() if frame.function}))
        else:
            self.note("best of several", node, BEST)

    def check_choice(self, whether: Value, condition: Node, first: Value, second: Value, node: Node) -> None:
        if (
            condition.kind == "comparison_operator"
            and LOSS in first.tags
            and LOSS in second.tags
            and (self.sees_val(first) or self.sees_val(second))
        ):
            compared = [self.value(part) for part in condition.children]
            if len(compared) == 2 and all(LOSS in side.tags for side in compared):
                self.best(node, "")

    def check_gate_of(self, whether: Value, condition: Node, parts: list[Value], node: Node) -> None:
        if any({LOSS, PROB} & part.tags for part in parts) and not all(BYTES in part.tags for part in parts):
            self.note(
                "target in gate",
                node,
                "a table indexed by the target chooses between two predictions: the distribution depends on the token that it is for",
            )

    def check_gate_product(self, left: Value, right: Value, node: Node) -> None:
        words = [names_of(node.field("left")), names_of(node.field("right"))]
        for one, word in ((left, words[1]), (right, words[0])):
            if PROPERTY in one.tags and names.GATE.search(word) and LOSS not in one.tags:
                self.note(
                    "target in gate",
                    node,
                    f"{word} is multiplied by a table entry of the target: the distribution depends on the token that it is for",
                )

    # Mixtures

    def check_spread(self, left: Value, right: Value, node: Node, operator: str) -> None:
        """loss of one token / number of its bytes, where bytes are then mixed."""
        if operator == "**":
            spread = (PROB in left.tags or LOSS in left.tags) and BYTES in right.tags
        else:
            spread = LOSS in left.tags and SUM not in left.tags and BYTES in right.tags and SUM not in right.tags
        if spread and not re.search(r"sum|total|tot_|count", node.text[:200]):
            function = self.frame.function.node if self.frame.function else self.root
            if any(part.kind == "identifier" and MIXES.search(part.text) for part in function.walk()):
                self.note(
                    "byte mixture",
                    node,
                    "spreads the log-probability of a token evenly over its bytes and mixes those: this is no distribution over tokens",
                )

    def check_score(self, value: Value, node: Node) -> None:
        """A score that was made with counts of tokens that come after it."""
        around = {number for number, _ in self.loops}
        for tag in value.tags:
            if isinstance(tag, tuple) and tag[0] == "built" and tag[1] not in around and self.sees_val(value):
                self.note("two passes", node, "the score uses statistics that were counted over the validation tokens in a pass before it")

    # Adaptation

    def check_closed_form(self, name: str, value: Value, node: Node, operator: str = "") -> Value:
        """bias = bias - rate * gradient, without autograd. The new value is a parameter, and no loss or gradient any more."""
        if GRAD not in value.tags or GRAD in names.tags(name) or RANDOM in value.tags:
            return value
        right = node.field("right")
        text = (right if right is not None else node).text[:300]
        if operator in ("", "=") and not re.search(rf"\b{re.escape(name)}\b", text):
            return value
        words = re.findall(r"\w+", text)
        if operator in ("-=", "add_", "sub_") or any(RATE.search(word) for word in words) or ("-" in text and operator in ("", "=")):
            self.updates(value, node)
            if VAL in value.tags or self.frame.data_is_val:
                function = self.frame.function.text if self.frame.function else ""
                if re.search(r"\.mean\((dim=)?\(?0", function) and BATCH.search(function):
                    sentence = f"{name} is fitted to the mean over a batch of windows: the targets of one are the context of another"
                    self.note("batch-shared", node, sentence)
            return Value(value.tags - {GRAD, LOSS, CONTEXT, TARGET})
        return value

    def check_fitted(self, frame: Frame) -> None:
        """Parameters of fixed shape that are fitted while windows come in batches, as torch.zeros(1, 1, d, requires_grad=True) is."""
        if frame.number not in self.learned_in or not frame.fitted or frame.function is None:
            return
        text = frame.function.text
        words = {part.text for part in frame.function.node.walk() if part.kind == "identifier"}
        if not any(BATCH.search(word) for word in words):
            return
        given_to_optimizers = {
            part.text
            for call in frame.function.node.walk()
            if call.kind == "call" and names.OPTIMIZER.search(names_of(call))
            for argument in getattr(call.field("arguments"), "children", ())[:1]
            for part in argument.walk()
            if part.kind == "identifier"
        }
        for name, made, right in frame.fitted:
            if (
                "requires_grad" not in right
                and "Parameter" not in right
                and name not in given_to_optimizers
                and f"{name}.requires_grad" not in text
            ):
                continue
            given = made.field("arguments")
            axes = [part for part in given.children if part.kind not in ("keyword_argument", "comment")] if given is not None else []
            if axes and axes[0].kind in ("tuple", "list"):
                axes = axes[0].children
            if axes and all(axis.kind == "integer" and axis.text == "1" for axis in axes[:-1]):
                before, self.frame = self.frame, frame
                shape = ", ".join(axis.text[:40] for axis in axes)
                self.note(
                    "batch-shared",
                    made,
                    f"fits {name} of shape ({shape}), which has no axis of windows: windows of one batch overlap, so "
                    "the targets of one are the context of another",
                )
                self.frame = before

    # Calls

    def check_call(self, name: str, node: Node, owner: Value, positional: list[Value], keywords: dict[str, Value]) -> None:
        everything = together([*positional, *keywords.values()])
        tags, text = everything.tags, node.text[:200] if node.end - node.start < 4_000 else ""
        if (
            names.CALIBRATES.search(name)
            and not names.NO_CALIBRATION.search(name)
            and VAL in tags
            and LOSS not in tags
            and not tags & {SELF}
        ):
            self.calibrated(name, node, positional, keywords)
        if name in ("min", "minimum", "amin", "fmin", "nanmin", "argmin", "nanargmin"):
            losses = [value for value in [*([owner] if LOSS in owner.tags else []), *positional] if LOSS in value.tags]
            rows = len(losses) == 1 and (losses[0].items is None or len(losses[0].items) > 1) and name != "argmin"
            stacked = len(losses) == 1 and re.search(r"(dim|axis)=0|\(0\)|stack|all_|cand|epochs|runs|passes|\[", node.text[:200])
            if (
                len(losses) >= 2 or (losses and losses[0].items and len(losses[0].items) > 1) or (rows and stacked) or (losses and stacked)
            ) and any(self.sees_val(value) for value in losses):
                kept = " ".join(names_of(part) for part in getattr(node.field("arguments"), "children", ()))
                self.best(node, kept)
        if name == "where" and len(positional) == 3:
            whether, first, second = positional
            if PROPERTY in whether.tags:
                self.check_gate_of(whether, node, [first, second], node)
            condition = node.field("arguments").children[0]
            self.check_choice(whether, condition, first, second, node)
        if name == "hash" and TARGET in tags:
            self.hashes.append((node.line, self.frame.function.name if self.frame.function else ""))
        if name in ("bitwise_xor", "logical_xor"):
            self.mixed(positional[0] if positional else owner, positional[-1] if positional else owner, node)
        if name in ("take", "gather", "get", "index_select", "take_along_axis") and HASH in tags:
            self.found_by_hash = True
        if name in ("at", "scatter_add_", "index_add_", "add_at", "increment", "setdefault") and HASH in tags:
            self.counted_by_hash = True
        if HINTS.search(name) and (VAL in tags or self.frame.data_is_val) and not self.loops:
            self.facts.setdefault("hints in stream order", (node.line, name))
        if (
            name in ("sorted", "sort", "argsort")
            and (LENGTH_ORDER.search(text) or BY_LENGTH.search(text))
            and (VAL in (tags | owner.tags) or self.frame.data_is_val or "doc" in text)
        ):
            self.facts.setdefault("documents by length", (node.line, name))

    def calibrated(self, name: str, node: Node, positional: list[Value], keywords: dict[str, Value]) -> None:
        """Validation tokens are given to something that calibrates; a function of the module must also use them."""
        target = self.names_of_functions.get(name)
        if target is not None:
            words = [part.text for part in target.body.walk() if part.kind == "identifier"] if target.body is not None else []
            given = [parameter for (parameter, _, _), value in zip(target.parameters, positional, strict=False) if VAL in value.tags]
            given += [parameter for parameter, value in keywords.items() if VAL in value.tags]
            if given and not any(parameter in words for parameter in given):
                return
        self.note("val in calibration", node, f"{name} is given validation tokens: the artifact depends on the text that it is scored on")


def contextual(tags: frozenset) -> bool:
    """Whether a loss was cut to tokens before those that are scored."""
    return CONTEXT in tags
