"""What flow.py does with names and values: look a name up, bind it, and make events of sums, stores and gradients."""

import builtins
import re
from itertools import zip_longest

from stages.audit.code import names
from stages.audit.code.domain import NOTHING, Frame, Value, is_born, names_of, together
from stages.audit.code.expressions import Expressions
from stages.audit.code.names import CONTEXT, LOOKED, LOSS, PROPERTY, RANDOM, SUM, TARGET, TRAIN, VAL
from stages.audit.code.settings import UNKNOWN
from stages.audit.code.syntax import Node
from stages.audit.code.trace import Event

BUILTINS = frozenset(dir(builtins)) | {
    "torch",
    "np",
    "numpy",
    "F",
    "nn",
    "os",
    "math",
    "dist",
    "self",
    "cls",
    "device",
    "rank",
    "args",
    "h",
}
NO_TOKENS = re.compile(
    r"model|opt|lr$|rate|param|device|stride|size|num|table|prime|mask|weight|cfg|config|lut|log|step|seed", re.IGNORECASE
)
KEPT_BY_NAME = frozenset((TARGET, LOSS, CONTEXT, names.GRAD, names.BYTES))
WARMS = re.compile(
    r"warming|warm_?up_?(compile|kernels?|graphs?|lora|ttt|shapes?|bsz)|(compile|kernels?|lora|ttt)_?\w{0,8}_?warm_?up|^_?warm_?up",
    re.IGNORECASE,
)

FILLS = re.compile(r"^(update|add|insert|observe|count|increment|push|learn|fit|feed|absorb)(_(tokens?|many|batch|counts?|all))?$")


class Bindings(Expressions):
    """Names, and what a value that is bound to one means."""

    # Events

    def event(self, kind: str, tags: frozenset, node: Node) -> None:
        where = self.frame.function.name if self.frame.function else ""
        self.clock += 1
        around = frozenset(number for number, epochs in self.loops if not epochs)
        place, clock = len(self.items), self.clock
        if kind == "S" and (born := max((tag[1] for tag in tags if is_born(tag)), default=0)):
            # a score is fixed when its loss is computed, not when it is added
            while place and self.items[place - 1].clock > born:
                place -= 1
            clock = min(clock, born)
        self.items.insert(place, Event(kind, tags, node.line, where, around, clock))

    def born(self, tags: frozenset) -> frozenset:
        """The tags of a loss that is computed now."""
        self.clock += 1
        return frozenset(tag for tag in tags if not is_born(tag)) | {("born", self.clock)}

    def scores(self, target: str, value: Value, node: Node) -> None:
        """A value is added to a sum or stored: a score if it is a loss of validation tokens."""
        if names.GRAD in value.tags:
            return
        is_sum = bool(names.LOSS_SUM.search(target.lower())) and not names.NO_LOSS.search(target.lower())
        if (VAL in value.tags and (LOSS in value.tags or is_sum) and not (RANDOM in value.tags and VAL not in value.tags)) or (
            is_sum and self.frame.data_is_val and value.constant is UNKNOWN and not value.tags & {TRAIN, RANDOM}
        ):
            self.event("S", value.tags, node)
            self.check_score(value, node)

    def updates(self, value: Value, node: Node) -> None:
        tags = value.tags
        if self.frame.data_is_val and not tags & {VAL, TRAIN, RANDOM}:
            tags = tags | {VAL}
        if self.warms_up(node):
            self.facts.setdefault("warm-up on val" if VAL in tags and RANDOM not in tags else "warm-up", (node.line,))
        elif VAL in tags:
            self.event("U", tags, node)
            self.learned_in.update(frame.number for frame in self.frames() if frame.function)
        elif RANDOM in tags:
            self.facts.setdefault("warm-up", (node.line,))
        else:
            self.facts.setdefault("training loop", (node.line,))

    def warms_up(self, node: Node) -> bool:
        """Whether a function or the lines before a loop say that they warm up the compiler. A rate is warmed up, too."""
        if any(WARMS.search(frame.function.name) for frame in self.frames() if frame.function):
            return True
        start = min([node.start, *self.starts[-2:]])
        return WARMS.search(node.source.data[max(0, start - 300) : start].decode(errors="replace")) is not None

    def frames(self):
        frame: Frame | None = self.frame
        while frame is not None:
            yield frame
            frame = frame.outer

    # Names

    def lookup(self, name: str) -> Value:
        found = self.frame.find(name)
        if found is not None:
            if self.loops and any(isinstance(tag, tuple) and tag[0] == "built" for tag in found.tags):
                # a table that is read in the loop that fills it holds only what came before
                around = {number for number, _ in self.loops}
                kept = frozenset(tag for tag in found.tags if not (isinstance(tag, tuple) and tag[0] == "built" and tag[1] in around))
                return Value(kept, found.constant, found.function, found.items)
            return found
        own = names.tags(name)
        if self.frame.data_is_val and not own & {TRAIN} and name not in BUILTINS and not name.isupper() and not NO_TOKENS.search(name):
            return Value((own & KEPT_BY_NAME) | {VAL})
        constant = self.settings.defaults.get(name, UNKNOWN)
        return Value(own & (KEPT_BY_NAME | {VAL, TRAIN}), constant)

    def assign(self, target: Node | None, value: Value, node: Node) -> None:
        if target is None:
            return
        match target.kind:
            case "identifier":
                name = target.text
                own = names.tags(name)
                kept = own & KEPT_BY_NAME
                if VAL in own and not value.tags & {TRAIN, RANDOM}:
                    kept = kept | {VAL}
                if LOSS in kept and LOSS not in value.tags and VAL in value.tags:
                    value = Value(self.born(value.tags), value.constant, value.function, value.items)
                if SUM in value.tags and TARGET in kept:
                    kept = kept - {TARGET}
                self.check_assignment(name, value, node)
                if node.kind == "assignment":
                    value = self.check_closed_form(name, value, node)
                value = self.hashed(name, value, node)
                before = self.frame.variables.get(name)
                if self.loops and before is not None and LOSS in value.tags and self.grows(name, node):
                    self.scores(name, value, node)
                self.frame.variables[name] = value.plus(kept)
            case "pattern_list" | "tuple_pattern" | "tuple" | "list" | "list_pattern":
                parts = (
                    value.items if value.items and len(value.items) == len(target.children) else [Value(value.tags)] * len(target.children)
                )
                for part, own in zip_longest(target.children, parts, fillvalue=NOTHING):
                    if isinstance(part, Node):
                        self.assign(part, own, node)
            case "subscript":
                index = together(self.value(part) for part in target.children[1:])
                self.stored(target, index, value, node)
            case "attribute":
                self.check_closed_form(target.text, value, node)
                self.value(target.field("object"))
            case _:
                for part in target.children:
                    self.assign(part, Value(value.tags), node)

    @staticmethod
    def grows(name: str, node: Node) -> bool:
        """x = x + ..."""
        right = node.field("right")
        return (
            right is not None
            and right.kind == "binary_operator"
            and right.operators == ["+"]
            and getattr(right.field("left"), "text", "") == name
        )

    def augment(self, node: Node) -> None:
        target, value = node.field("left"), self.value(node.field("right"))
        operator = node.operators[0] if node.operators else "+="
        name = names_of(target)
        if target.kind == "identifier":
            before = self.lookup(target.text)
            if operator == "^=":
                value = self.mixed(value, before, node)
            if operator == "+=":
                self.scores(name, value, node)
            value = self.check_closed_form(name, value, node, operator)
            self.frame.variables[target.text] = Value(before.tags | value.tags | (names.tags(name) & KEPT_BY_NAME) | self.summed(name))
        elif target.kind == "subscript":
            index = together(self.value(part) for part in target.children[1:])
            self.stored(target, index, value, node, augmented=True)
        else:
            if operator == "+=":
                self.scores(name, value, node)
            self.check_closed_form(name, value, node, operator)

    @staticmethod
    def summed(name: str) -> frozenset:
        return frozenset((SUM,)) if re.search(r"sum|total|acc|count|tot(_|$)", name) else frozenset()

    def stored(self, target: Node, index: Value, value: Value, node: Node, *, augmented: bool = False) -> None:
        """x[index] = value, or x[index] += value."""
        name = names_of(target)
        self.scores(name, value, node)
        base = target.field("value")
        if base is not None and base.kind == "identifier" and (known := self.frame.find(base.text)) is not None:
            tags = value.tags - {LOOKED}
            if augmented and index.tags & {VAL, TARGET, names.HASH} and LOSS not in value.tags:
                tags = tags | {self.built()}
            self.frame.variables[base.text] = known.plus(tags)
        self.counted(index, node)

    def built(self) -> tuple:
        """The mark of a table that is filled in the outermost loop of now."""
        return ("built", self.loops[0][0] if self.loops else 0)

    def fill(self, name: str, node: Node, is_method: bool, positional: list) -> None:
        """np.add.at(table, index, 1), cache.update(tokens): a table is filled with validation tokens."""
        if not is_method or not positional:
            return
        target = node.field("function").field("object")
        if name == "at" and names_of(target) == "add" and len(positional) >= 2:
            self.filled(node.field("arguments").children[0], positional[1])
        elif FILLS.search(name) and not names.OPTIMIZER.search(names_of(target)):
            self.filled(target, together(positional))

    def filled(self, target: Node | None, given: Value) -> None:
        if target is None or target.kind != "identifier" or VAL not in given.tags or LOSS in given.tags:
            return
        if (known := self.frame.find(target.text)) is not None and known.function is None:
            self.frame.variables[target.text] = known.plus(frozenset((self.built(),)))

    def accumulated(self, name: str, target: Node | None, owner, positional: list, node: Node) -> None:
        """x.add_(value), x.append(value), x.index_add_(dim, index, value) and the like."""
        value = positional[-1]
        word = names_of(target)
        self.scores(word, value, node)
        self.check_closed_form(word, value, node, "add_" if name == "add_" else "")
        if target is not None and target.kind == "identifier" and (known := self.frame.find(target.text)) is not None:
            tags = value.tags - {LOOKED, PROPERTY}
            if name in ("scatter_add_", "index_add_", "put", "update") and VAL in (tags | positional[0].tags) and LOSS not in tags:
                tags = tags | {self.built()}
            self.frame.variables[target.text] = known.plus(tags)
