"""Patterns that need no flow of values: in Python the network, tables of bytes, documents and parameters; and C, C++, CUDA and shell."""

import re
from collections.abc import Iterator

from stages.audit.code import names
from stages.audit.code.domain import names_of
from stages.audit.code.syntax import Node

Found = tuple[str, int, str, str, bool]  # kind, line, function, sentence, against
MASKS = re.compile(r"bos|doc|boundary|mask|cu_seqlens|segment|is_start", re.IGNORECASE)
CHUNK = re.compile(r"(self\.|h\.)?(ttt_|cur_|this_)?chunk(_size|_len|_length|_tokens)?", re.IGNORECASE)
LENGTH = re.compile(r"doc_?len|document_length|longest|max_len|doc\w*\.length|lens?_of|\blength\b", re.IGNORECASE)
CHUNK_SENTENCE = "the length of a chunk depends on the length of its document, which a decoder does not know (#2014)"
HINTED = re.compile(r"hint|tilt|boost", re.IGNORECASE)
SCORING = re.compile(r"forward_(ttt|eval|logits|score)|score|eval", re.IGNORECASE)
BIG = 60_000  # characters of a function; a larger one is not searched by patterns
WORD_TABLE = re.compile(r"boundary|starts?_(new_)?word|word_start|new_word|leading_space|is_space", re.IGNORECASE)
WORD_HINT = re.compile(r"within|word", re.IGNORECASE)
TARGET = re.compile(r"^(y|tgt|target|label|next_tok\w*|true_tok\w*)$|_(tgt|target)$|^target", re.IGNORECASE)
SHELL_DATA = re.compile(r"fineweb_val|/val/", re.IGNORECASE)


def of_python(root: Node) -> list[Found]:
    found = [*_imports(root)]
    words = {part.text for part in root.walk() if part.kind == "identifier"}
    for node in root.walk():
        if node.kind == "function_definition" and node.field("name") is not None and node.end - node.start < BIG:
            found += _table(node)
            found += _smear(node)
            found += _queue(node)
            found += _chunks(node)
            found += _warm_up(node)
        elif node.kind == "class_definition":
            found += _parameters(node)
    lower = " ".join(words).lower()
    if (
        "caseops" in lower
        and re.search(r"base_bytes|piece_bytes|has_leading_space", lower)
        and not re.search(r"sidecar|val_bytes|byte_shard|bytes_val", lower)
    ):
        line = next(
            part.line
            for part in root.walk()
            if part.kind == "identifier" and re.search("base_bytes|piece_bytes|has_leading", part.text.lower())
        )
        found.append(
            (
                "piece table",
                line,
                "",
                "counts the bytes of CaseOps ids with a table of pieces and not with the side file: 8.95 % too many",
                True,
            )
        )
    return found


def _imports(root: Node) -> Iterator[Found]:
    for node in root.walk():
        if node.kind in ("import_statement", "import_from_statement"):
            module = node.field("module_name")
            for part in [module] if module is not None else node.children:
                word = part.text.split(" as ")[0]
                if word.split(".")[0] in names.NETWORK:
                    yield "network", node.line, "", f"imports {word}, which reaches the network", False


def _table(function: Node) -> Iterator[Found]:
    """A table of bytes by pieces: byte pieces are one byte, and a leading blank is counted once."""
    text = function.text
    if not re.search(r"id_to_piece|IdToPiece|get_piece", text) or "encode" not in text:
        return
    name = function.field("name").text
    if not re.search(r"is_byte|IsByte|<0x|byte_fallback", text):
        yield "piece table", function.line, name, "sizes byte-fallback pieces by their spelling and not as one byte", True
    if re.search(r"encode\([^)]{0,40}\)\)\s*\+\s*1|\+=\s*1\b", text) and re.search(r"has_leading|leading_space|lead\w*\[", text):
        yield "piece table", function.line, name, "counts a leading blank in the table and again by its flag", True


def _smear(function: Node) -> Iterator[Found]:
    """x[t] += gate * x[t-1] without a mask at the starts of documents."""
    inner = [part for part in function.walk() if part.kind == "identifier"]
    name = function.field("name").text
    if not any("smear" in part.text.lower() for part in inner) or name.startswith("__"):
        return
    shifted = re.search(r"\[[^\]]{0,20}:\s*-\s*1\s*[,\]]", function.text)
    if shifted and not any(MASKS.search(part.text) for part in inner):
        yield "no document mask", function.line, name, "mixes each position with the one before, also across the start of a document", False


def _queue(function: Node) -> Iterator[Found]:
    """Documents are served longest first, and of the sorted ones the first are kept."""
    text = function.text
    cut = re.search(
        r"sort(ed)?\([^\n]{0,160}\)\s*\[\s*:|\.sort\([^\n]{0,120}\)[^\[]{0,200}\[\s*:\s*[\w.]*(limit|prefix|num_docs|max_docs|boundary)\w*",
        text,
    )
    if cut and re.search(r"reversed\(|reverse\s*=\s*True", text[: cut.start()]) and not re.search(r"reverse\s*=\s*True", cut[0]):
        line = function.source.line(function.start + len(text[: cut.start()].encode()))
        sentence = "serves the longest documents first and keeps the first of the sorted ones: the longest are dropped"
        yield "drops the longest", line, function.field("name").text, sentence, False


def _chunks(function: Node) -> Iterator[Found]:
    """The length of a chunk follows from the length of its document, which a decoder does not know."""
    name = function.field("name").text
    by_length = re.search(r"chunk", name, re.IGNORECASE) and re.search(r"len", name, re.IGNORECASE)
    for node in function.walk():
        if node.kind == "assignment" and node.field("right") is not None:
            left, right = node.field("left").text[:60], node.field("right")
            if CHUNK.fullmatch(left) and right.kind == "conditional_expression" and LENGTH.search(right.text[:300]):
                yield "chunks by length", node.line, name, CHUNK_SENTENCE, True
                return
        if node.kind == "if_statement" and node.field("condition") is not None and LENGTH.search(node.field("condition").text[:200]):
            body = node.field("consequence")
            for part in body.children if body is not None else ():
                inner = part.children[0] if part.children else part
                sets = inner.kind == "assignment" and inner.field("left") is not None and CHUNK.fullmatch(inner.field("left").text[:60])
                if sets or (part.kind == "return_statement" and by_length and "<" in node.field("condition").operators):
                    yield "chunks by length", node.line, name, CHUNK_SENTENCE, True
                    return


def _warm_up(function: Node) -> Iterator[Found]:
    """A warm-up that calls the forward without hints, and a score that calls it with them."""
    calls: dict[str, list[tuple[bool, Node]]] = {}
    for node in function.walk():
        if node.kind == "call" and node.field("arguments") is not None:
            keywords = [part.field("name").text for part in node.field("arguments").children if part.kind == "keyword_argument"]
            calls.setdefault(names_of(node), []).append((any(HINTED.search(word) for word in keywords), node))
    for name, found in calls.items():
        plain = next((node for hinted, node in found if not hinted), None)
        if plain is None or not any(hinted for hinted, _ in found):
            continue
        before = function.source.data[max(function.start, plain.start - 400) : plain.start].decode(errors="replace")
        if re.search(r"warm", before, re.IGNORECASE):
            sentence = f"warms {name} up without hints, and scores with them: what is compiled then runs inside the timer"
            yield "warm-up without hints", plain.line, function.field("name").text, sentence, False
            return


def _parameters(definition: Node) -> Iterator[Found]:
    """Parameters of a network that only its other forwards read, so that training gives them no gradient."""
    body = definition.field("body")
    methods = [part for part in body.children if part.kind == "function_definition"] if body is not None else []
    by_name = {method.field("name").text: method for method in methods if method.field("name") is not None}
    if "forward" not in by_name or "__init__" not in by_name or not SCORING.search(" ".join(by_name)):
        return
    made = re.findall(r"self\.(\w{1,60})\s*=\s*(?:torch\.)?nn\.Parameter\(", by_name["__init__"].text[:BIG])
    for name in made[:50]:
        readers = {method for method, node in by_name.items() if method != "__init__" and re.search(rf"self\.{name}\b", node.text[:BIG])}
        helpers = {method for method in readers if re.search(rf"self\.{method}\(", by_name["forward"].text[:BIG])}
        if readers and "forward" not in readers and not helpers:
            said = f"{name} is read only by {', '.join(sorted(readers))} and not by forward, so the training loss gives it no gradient"
            yield "parameter without gradient", definition.line, definition.field("name").text, said, False


def of_other_languages(root: Node, language: str) -> list[Found]:
    """C, C++, CUDA and shell, by the words of their syntax trees."""
    return _shell(root) if language == "bash" else _c(root)


def _c(root: Node) -> list[Found]:
    found: list[Found] = []
    for function in root.walk():
        if function.kind != "function_definition":
            continue
        name = next((part.text for part in function.walk() if part.kind == "identifier"), "")[:60]
        words = [part for part in function.walk() if part.kind in ("identifier", "field_identifier")]
        texts = {part.text for part in words}
        hashed = counted = None
        gate = None
        for node in function.walk():
            mixes = node.kind in ("binary_expression", "assignment_expression") and {"^", "^="} & set(node.operators)
            if hashed is None and mixes and any(part.kind == "identifier" and TARGET.search(part.text) for part in node.walk()):
                hashed = node
            if node.kind == "update_expression" and any(part.kind == "subscript_expression" for part in node.walk()):
                counted = node
            if node.kind == "subscript_expression" and gate is None:
                table, index = node.children[0], node.children[1:]
                inside = {part.text for each in index for part in each.walk() if part.kind == "identifier"}
                if WORD_TABLE.search(table.text[-60:]) and any(
                    TARGET.search(word) or re.match(r"tok(en)?s?$|cur", word) for word in inside
                ):
                    gate = node
        if hashed is not None and (counted is None or any(re.search(r"prob|ratio|^p_|log", word) for word in texts)):
            found.append(
                (
                    "target in hash",
                    hashed.line,
                    name,
                    "a hash contains the target: what is looked up for the realized token alone is no distribution",
                    True,
                )
            )
        if gate is not None and any(names.GATE.search(word) and WORD_HINT.search(word) for word in texts):
            found.append(
                (
                    "target in gate",
                    gate.line,
                    name,
                    "a hint is given by whether the target begins a word: the distribution depends on the token that it is for",
                    True,
                )
            )
    return found


def _shell(root: Node) -> list[Found]:
    found: list[Found] = []
    for node in root.walk():
        if node.kind == "variable_assignment" and node.field("name") is not None and node.field("value") is not None:
            name, value = node.field("name").text, node.field("value").text[:300]
            if re.search(r"TRAIN", name) and re.search(r"FILE|DATA|PATH|GLOB|SHARD", name) and SHELL_DATA.search(value):
                found.append(("trains on val", node.line, "", f"{name[:60]} names validation shards as training data", True))
        if node.kind == "command_name" and node.text in ("curl", "wget", "huggingface-cli", "aws", "gsutil"):
            found.append(("network", node.line, "", f"runs {node.text}, which reaches the network", False))
    return found
