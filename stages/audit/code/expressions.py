"""The values of expressions for flow.py: tags flow from the parts to the whole, and calls that matter are events."""

import re

from stages.audit.code import names, settings
from stages.audit.code.checks import Checks
from stages.audit.code.domain import NOTHING, Finished, Function, Value, names_of, together
from stages.audit.code.names import BYTES, CONTEXT, GRAD, HASH, HASHED, LOOKED, LOSS, PROB, PROPERTY, RANDOM, SUM, TARGET, TRAIN, VAL
from stages.audit.code.settings import UNKNOWN
from stages.audit.code.syntax import Node

INT_KINDS = ("int", "float", "bool", "str")
ACCUMULATES = re.compile(r"^(add_|append|extend|index_add_|scatter_add_|copy_|put|update)$")
RECORDS = re.compile(r"accum|record|tally|add_loss|add_score|update_(bpb|loss|score|sums|metrics)", re.IGNORECASE)
COUNTS = re.compile(r"bincount|histc|histogram|unique|Counter|value_counts", re.IGNORECASE)
LENGTHS = frozenset(("len", "range", "numel", "size", "nelement", "isinstance", "hasattr", "time", "perf_counter", "dim"))
PASSES_ON = frozenset(
    ("compile", "jit", "njit", "partial", "wraps", "no_grad", "inference_mode", "DDP", "DistributedDataParallel", "cache")
)
TEXT = 200  # characters of a constant that are looked at


class Expressions(Checks):
    """Evaluates expressions to values with tags."""

    def value(self, node: Node | None):
        if node is None:
            return NOTHING
        self.steps -= 1
        if self.steps < 0:
            raise Finished
        match node.kind:
            case "identifier":
                return self.lookup(node.text)
            case "string" | "concatenated_string":
                if node.end - node.start > TEXT:
                    return NOTHING
                for part in node.children:
                    if part.kind == "interpolation":
                        self.value(part.field("expression"))
                text = node.text.strip("rbuRBU\"'")
                is_val = bool(names.VALIDATION_TEXT.search(text)) and not re.search(r"[ :{]", text)
                return Value(frozenset((VAL,)) if is_val else frozenset(), text)
            case "integer" | "float" | "true" | "false" | "none":
                return Value(constant=self.constant(node))
            case "attribute":
                return self.attribute(node)
            case "subscript":
                return self.subscript(node)
            case "call":
                return self.call(node)
            case "binary_operator":
                return self.binary(node)
            case "boolean_operator" | "comparison_operator" | "not_operator":
                found = together(self.value(part) for part in node.children)
                return Value(found.tags - {LOSS, PROB})
            case "conditional_expression" if len(node.children) == 3:
                return self.conditional(node)
            case "tuple" | "list" | "expression_list":
                items = tuple(self.value(part) for part in node.children if part.kind != "comment")
                return Value(together(items).tags, items=items if len(items) <= 64 else None)
            case "lambda":
                function = Function(node, self.frame)
                function.entered = True
                return Value(function=function)
            case "list_comprehension" | "generator_expression" | "set_comprehension" | "dictionary_comprehension":
                return self.comprehension(node)
            case "named_expression":
                found = self.value(node.field("value"))
                self.assign(node.field("name"), found, node)
                return found
            case "keyword_argument" | "interpolation":
                return self.value(node.field("value") or node.field("expression"))
            case "assignment":
                self.statement(node)
                return NOTHING
            case "comment" | "type":
                return NOTHING
            case "parenthesized_expression" | "await" | "list_splat" | "unary_operator" if len(node.children) == 1:
                return self.value(node.children[0])
        return together([self.value(part) for part in node.children])

    def attribute(self, node: Node):
        owner, name = self.value(node.field("object")), node.field("attribute").text
        own = names.tags(name)
        if name in ("shape", "dtype", "device"):
            return Value(frozenset(tag for tag in owner.tags if not isinstance(tag, str)))
        constant = self.settings.attribute(name)
        tags = (owner.tags | (own & frozenset((LOSS, TARGET, VAL, TRAIN, GRAD, BYTES)))) - (
            {VAL} if TRAIN in own and VAL not in own else set()
        )
        if isinstance(constant, str) and names.VALIDATION_TEXT.search(constant) and ("file" in name or "path" in name or "data" in name):
            tags = tags | {VAL}
        return Value(tags, constant, owner.function if name in ("apply", "fn") else None)

    def subscript(self, node: Node):
        base = self.value(node.field("value"))
        parts = [part for part in node.children[1:] if part.kind != "comment"]
        index = together(self.value(part) for part in parts)
        name = names_of(node.field("value"))
        tags = base.tags | (
            index.tags - {TARGET, HASH, LOSS, CONTEXT, TRAIN} - {tag for tag in index.tags if isinstance(tag, tuple) and tag[0] == "built"}
        )
        if len(parts) == 1 and parts[0].kind == "string":
            tags = base.tags | (names.tags(parts[0].text.strip("\"'")) & {LOSS, TARGET, VAL})
        if TARGET in index.tags and TARGET not in base.tags and parts[0].kind != "slice":
            tags = (tags | {LOOKED}) - {TARGET}
            if names.PROPERTY_NAME.search(name):
                tags = tags | {PROPERTY}
            if names.BYTE_NAME.search(name):
                tags = tags | {BYTES}
        if HASH in index.tags:
            tags = tags | {HASHED}
        if any(part.kind == "slice" for part in parts):
            text = parts[-1].text if node.end - node.start < TEXT else ""
            if (
                LOSS in base.tags
                and re.fullmatch(r":\s*(-\s*(?!1$)\w+|s|start|ctx\w*|context\w*|scored?_(start|from)|prefix\w*|first\w*)", text)
            ) or ({LOSS, TARGET} & base.tags and self.ends_before_the_score(text)):
                tags = tags | {CONTEXT}
            if VAL in base.tags and re.search(r"(^|[+(])\s*1\s*:|\+\s*1\b[^:]*:", text) and LOSS not in base.tags:
                tags = tags | {TARGET}
        if VAL in base.tags and len(parts) == 1 and node.end - node.start < TEXT and names.BEFORE.match(parts[0].text):
            tags = tags | {CONTEXT}  # what was scored in the round before
        elif (
            VAL in base.tags
            and len(parts) == 1
            and parts[0].kind != "slice"
            and re.search(r"\+\s*1$", parts[0].text[-20:])
            and LOSS not in base.tags
        ):
            tags = tags | {TARGET}
        constant = self.environment(node) if "environ" in node.text[:20] else UNKNOWN
        items = base.items
        if (
            items
            and len(parts) == 1
            and parts[0].kind == "integer"
            and (place := self.constant(parts[0])) is not UNKNOWN
            and place < len(items)
        ):
            return items[place]
        return Value(tags, constant)

    def ends_before_the_score(self, text: str) -> bool:
        """Whether a slice `:end` ends where another of the function begins: what is learned ends where what is scored begins."""
        found = re.fullmatch(r":\s*([A-Za-z_]\w*)", text)
        return bool(found and self.frame.function and re.search(rf"[\[,]\s*{found[1]}\s*:", self.frame.function.text))

    def binary(self, node: Node):
        left, right = self.value(node.field("left")), self.value(node.field("right"))
        operator = node.operators[0] if node.operators else ""
        tags = left.tags | right.tags
        if operator == "^":
            return self.mixed(left, right, node)
        if operator == "-" and PROB in left.tags and (TARGET in right.tags or "one_hot" in node.field("right").text[:TEXT]):
            tags = tags | {GRAD}
        if operator in ("/", "**", "//"):
            self.check_spread(left, right, node, operator)
            if operator == "/" and BYTES in right.tags:
                tags = tags - {BYTES}
        if HASHED in tags and operator in ("/", "*"):
            self.found_by_hash = True
        if operator == "*":
            self.check_gate_product(left, right, node)
        return Value(tags, self.constant(node))

    def conditional(self, node: Node):
        first, condition, second = node.children
        known = settings.truth(self.constant(condition))
        if known is not None:
            return self.value(first if known else second)
        whether = self.value(condition)
        found = [self.value(first), self.value(second)]
        self.check_choice(whether, condition, *found, node)
        if PROPERTY in whether.tags:
            self.check_gate_of(whether, condition, found, node)
        return Value(found[0].tags | found[1].tags)

    def comprehension(self, node: Node):
        clauses = [part for part in node.children if part.kind in ("for_in_clause", "if_clause")]
        self.number += 1
        for clause in clauses:
            if clause.kind == "for_in_clause":
                over = self.value(clause.field("right"))
                self.assign(clause.field("left"), Value(over.tags | {("loop", self.number)}, items=None), clause)
            else:
                together(self.value(part) for part in clause.children)
        return Value(self.value(node.field("body")).tags)

    def environment(self, node: Node):
        """The constant of os.environ["NAME"], os.environ.get("NAME", default) or os.getenv("NAME", default)."""
        texts = [part for part in node.walk() if part.kind == "string"]
        if not texts:
            return UNKNOWN
        name = texts[0].text.strip("\"'")
        if name in self.settings.launched:
            return self.settings.launched[name]
        given = node.field("arguments")
        positional = [part for part in given.children if part.kind != "comment"] if given is not None else []
        return self.constant(positional[1]) if len(positional) == 2 else UNKNOWN

    def constant(self, node: Node | None, depth: int = 0):
        """The constant that an expression is, or UNKNOWN."""
        if node is None or depth > 12:
            return UNKNOWN
        match node.kind:
            case "true" | "false":
                return node.kind == "true"
            case "none":
                return None
            case "integer" | "float":
                return settings.number(node.text.replace("_", "")) if len(node.text) < 20 else UNKNOWN
            case "string":
                return node.text.strip("rbuRBU\"'") if node.end - node.start < TEXT else UNKNOWN
            case "identifier":
                found = self.frame.find(node.text)
                return found.constant if found is not None else self.settings.defaults.get(node.text, UNKNOWN)
            case "attribute":
                return self.settings.attribute(node.field("attribute").text)
            case "parenthesized_expression" if len(node.children) == 1:
                return self.constant(node.children[0], depth + 1)
            case "not_operator":
                known = settings.truth(self.constant(node.children[-1], depth + 1))
                return UNKNOWN if known is None else not known
            case "boolean_operator":
                parts = [settings.truth(self.constant(part, depth + 1)) for part in (node.field("left"), node.field("right"))]
                if "and" in node.operators:
                    return False if False in parts else True if parts == [True, True] else UNKNOWN
                return True if True in parts else False if parts == [False, False] else UNKNOWN
            case "comparison_operator" if len(node.children) == 2:
                return self.compared(node, depth)
            case "unary_operator" if node.operators == ["-"]:
                found = settings.number(self.constant(node.children[0], depth + 1))
                return -found if found is not UNKNOWN else UNKNOWN
            case "conditional_expression" if len(node.children) == 3:
                known = settings.truth(self.constant(node.children[1], depth + 1))
                return UNKNOWN if known is None else self.constant(node.children[0 if known else 2], depth + 1)
            case "subscript" if "environ" in node.text[:TEXT]:
                return self.environment(node)
            case "call":
                name, given = names_of(node), node.field("arguments")
                if name in ("get", "getenv") and "env" in node.field("function").text[:TEXT]:
                    return self.environment(node)
                if name in INT_KINDS and given is not None and len(given.children) == 1:
                    found = self.constant(given.children[0], depth + 1)
                    if name == "bool":
                        known = settings.truth(found)
                        return UNKNOWN if known is None else known
                    return found if name == "str" else settings.number(found)
                if name in ("get_bool", "env_bool", "env_flag", "_env_bool", "env_int", "env_float", "_env", "env", "getenv_bool"):
                    return self.environment(node)
                if name in ("lower", "strip", "upper") and node.field("function").kind == "attribute":
                    return self.constant(node.field("function").field("object"), depth + 1)
        return UNKNOWN

    def compared(self, node: Node, depth: int):
        right = node.children[1]
        left = self.constant(node.children[0], depth + 1)
        operator = node.operators[0] if node.operators else ""
        if left is UNKNOWN:
            return UNKNOWN
        if operator in ("in", "not in") and right.kind in ("tuple", "list", "set"):
            members = [self.constant(part, depth + 1) for part in right.children]
            if UNKNOWN in members:
                return UNKNOWN
            return (left in members) == (operator == "in")
        value = self.constant(right, depth + 1)
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(value, str) != isinstance(left, str):
            left, value = settings.number(left), settings.number(value)
            if UNKNOWN in (left, value):
                return UNKNOWN
        try:
            return {
                "==": left == value,
                "!=": left != value,
                "is": left is value,
                "is not": left is not value,
                "<": left < value if operator == "<" else None,
                ">": left > value if operator == ">" else None,
                "<=": left <= value if operator == "<=" else None,
                ">=": left >= value if operator == ">=" else None,
            }.get(operator, UNKNOWN)
        except TypeError:
            return UNKNOWN

    # Calls

    def call(self, node: Node):
        function, given = node.field("function"), node.field("arguments")
        name = names_of(node)
        positional, keywords = [], {}
        for part in given.children if given is not None else ():
            if part.kind == "keyword_argument":
                keywords[part.field("name").text] = self.value(part.field("value"))
            elif part.kind == "list_splat":
                inner = self.value(part)
                positional += inner.items or [Value(inner.tags)]
            elif part.kind != "comment":
                positional.append(self.value(part))
        is_method = function is not None and function.kind == "attribute"
        owner = self.value(function.field("object")) if is_method else NOTHING
        everything = together([*positional, *keywords.values()])
        self.check_call(name, node, owner, positional, keywords)
        if name == "backward" and is_method:
            # torch.autograd.backward(loss) has the loss as argument
            self.updates(everything if names_of(function.field("object")) == "autograd" else owner, node)
            return NOTHING
        if name == "grad" and is_method and names_of(function.field("object")) == "autograd":
            self.updates(positional[0] if positional else everything, node)
            return Value(everything.tags | {GRAD})
        if name == "step" and is_method and positional and positional[0].function:
            return self.call_function(positional[0].function, [], {})
        if name in ("get", "getenv") and (constant := self.constant(node)) is not UNKNOWN:
            tags = frozenset((VAL,)) if isinstance(constant, str) and names.VALIDATION_TEXT.search(constant[:TEXT]) else frozenset()
            return Value(tags, constant)
        if name in INT_KINDS and not is_method and (constant := self.constant(node)) is not UNKNOWN:
            return Value(everything.tags, constant)
        if names.RANDOM_MAKERS.search(name):
            return Value(frozenset((RANDOM,)))
        if names.FRESH_MAKERS.search(name):
            return NOTHING
        if name in LENGTHS:
            return Value(frozenset(tag for tag in everything.tags if tag == BYTES or (isinstance(tag, tuple) and tag[0] == "loop")))
        if HASHED in everything.tags and re.search(r"log|where|minimum|maximum|divide|blend|mix", name):
            self.found_by_hash = True
        self.fill(name, node, is_method, positional)
        if is_method and ACCUMULATES.search(name) and positional:
            self.accumulated(name, function.field("object"), owner, positional, node)
        elif names.LOSS_SUM.search(name) is None and RECORDS.search(name) and LOSS in everything.tags and VAL in everything.tags:
            self.event("S", everything.tags, node)
            self.check_score(everything, node)
        target = self.called_function(function, name, is_method, owner)
        if (names.WRITES.search(name) and not name.startswith("export_") and not re.search("eval|dequant|unpack", name)) or (
            name == "save" and is_method and names_of(function.field("object")) == "torch"
        ):
            self.event("W", frozenset(), node)
        if target is not None and re.fullmatch(r"(forward\w*|__init__)", target.name) is None:
            if is_method and target.parameters and target.parameters[0][0] in ("self", "cls"):
                positional = [owner, *positional]
            return self.named_result(name, self.call_function(target, positional, keywords), node)
        if name in PASSES_ON and positional and positional[0].function:
            return Value(everything.tags, function=positional[0].function)
        inner = self.value(function) if function is not None and function.kind == "call" else NOTHING
        if inner.function is not None:
            return self.call_function(inner.function, positional, keywords)
        found = Value(everything.tags | (owner.tags if is_method else frozenset()))
        return self.named_result(name, found, node)

    def named_result(self, name: str, found, node: Node):
        """What the name of a function says about its result."""
        tags = found.tags
        if names.LOSS_MAKERS.search(name) and LOSS not in tags:
            tags = self.born(tags)
        if names.LOSS_MAKERS.search(name):
            tags = (tags | {LOSS}) - {GRAD}
        if names.PROB_MAKERS.search(name):
            tags = (tags | {PROB}) - ({LOSS} if name != "exp" else set())
        if names.SUM_MAKERS.search(name) and LOSS in tags:
            tags = tags | {SUM}
        if name in ("item", "sum"):
            tags = tags - {LOOKED, PROPERTY}
        if COUNTS.search(name) and VAL in tags and LOSS not in tags:
            tags = tags | {self.built()}
        if names.is_validation(name) or re.search(r"(^|_)(load|get|read|make|build)_?(val|validation|valid)(_|$)", name):
            tags = tags | ({VAL} if not tags & {TRAIN} and not names.NO_DATA.search(name) else frozenset())
        return found if tags == found.tags else Value(tags, found.constant, found.function, found.items)

    def called_function(self, function: Node | None, name: str, is_method: bool, owner):
        """The function of the module that is called, if it is known."""
        if function is not None and function.kind == "identifier":
            found = self.frame.find(function.text)
            return found.function if found is not None else None
        if is_method:
            known = self.methods.get(name, ())
            if len(known) == 1 and name not in ("step", "train", "eval", "to", "reset", "forward", "update", "append"):
                return known[0]
        return None
