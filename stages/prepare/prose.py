"""Extract English prose from Python source and documentation files, paragraph by paragraph. No code is imported or run.

A paragraph is kept (`is_prose`) if all of these hold. The bounds were set by reading what each of them accepts:

    at least 8 words                        below that: headings, parameter names, one-word remarks
    letters and blanks >= 88 % of it        code, tables, formulas, paths and rulers are punctuation and digits
    lower-case words >= 65 % of its words   constants, class names, signatures and lists of identifiers are not
    English function words >= 15 %          "the", "of", "is", ...: lists of terms and other languages have few
    ends like a sentence                    . ! ? or : and closing quotes or brackets; headings and fragments do not
    no mark-up                              ">>", "===", "---", "|", "%(", "{", tags: what slipped through the rest

Line breaks inside a paragraph become blanks, because they depend on the indentation of the source and not on the language. For the same
reason the mark-up of names is dropped: :meth:`~list.sort` and ``sort`` become `list.sort` and `sort`.
"""

import ast
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator

MIN_WORDS = 8
MIN_LETTERS = 0.88
MIN_LOWER_CASE = 0.65
MIN_FUNCTION_WORDS = 0.15
FUNCTION_WORDS = frozenset(
    (
        "a",
        "all",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "each",
        "for",
        "from",
        "has",
        "have",
        "he",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "may",
        "must",
        "no",
        "not",
        "of",
        "on",
        "only",
        "or",
        "so",
        "than",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "was",
        "we",
        "when",
        "which",
        "will",
        "with",
        "you",
        "your",
    )
)
# The last class is control characters and halves of surrogate pairs, which no encoding accepts.
MARKUP = re.compile(r">>|===|---|\||%\(|[{}]|</?[a-z]+[ >/]|\]\(|[\x00-\x1f\x7f\ud800-\udfff]")
ENDS_A_SENTENCE = re.compile(r"[.!?:][\"'`)\]*]*$")
ROLE = re.compile(r":[a-z][a-z:]*:`~?([^`<]+?)(?: <[^`>]+>)?`")
CITATION = re.compile(r" ?\[[\w.-]+\]_")
UNDERLINE = re.compile(r"\s*([-=~^\"'*+#.])\1{2,}\s*")
NOT_A_WORD = "\"'`*_()[]<>.,:;!?"
# A directive, list item or field (`:param x:`, `x (int): `) starts a new piece and loses its marker.
MARKER = re.compile(
    r"\s*\.\. [\w-]+::(?:\s+[\d.]+$|\s+|$)"
    r"|\s*(?:[-*+•]|\(?\d+[.)]|#+|\.\.|@\w+|:\w[^:\n]*:)\s+"
    r"|\s+\*{0,2}\w+(?: ?\([^()]*\))?: "
)
FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[^\n]*$", re.MULTILINE | re.DOTALL)
BLANK_LINE = re.compile(r"\n[ \t]*\n")


def paragraphs(text: str) -> Iterator[str]:
    """The prose paragraphs of `text` (its common indentation already removed), in order, one line each."""
    for block in BLANK_LINE.split(text):
        for piece in _pieces(block):
            plain = CITATION.sub("", ROLE.sub(r"`\1`", piece)).replace("``", "`").strip()
            if is_prose(plain):
                yield plain


def _pieces(block: str) -> Iterator[str]:
    """Split a block at markers and where the indentation steps back; few words above a step in are a heading.

    After a marker a step in only continues the item: `x (int): the first`, then four blanks and `words`.
    """
    words: list[str] = []
    before, is_item = 0, False
    for line in block.split("\n"):
        if not line.strip() or UNDERLINE.fullmatch(line):
            words = []  # the words above an underline are a heading
            continue
        indentation = len(line) - len(line.lstrip())
        marker = MARKER.match(line)
        is_below_heading = indentation > before and len(words) < MIN_WORDS and not is_item
        if words and (marker or indentation < before or is_below_heading):
            yield " ".join(words)
            words = []
        if not words:
            is_item = marker is not None
        words += (line[marker.end() :] if marker else line).split()
        before = indentation
    if words:
        yield " ".join(words)


def is_prose(paragraph: str) -> bool:
    """True if the paragraph (one line, single blanks) reads like English. The rule is in the module's docstring."""
    words = paragraph.split(" ")
    if len(words) < MIN_WORDS or MARKUP.search(paragraph) or not ENDS_A_SENTENCE.search(paragraph):
        return False
    if sum(map(str.isalpha, paragraph)) + paragraph.count(" ") < MIN_LETTERS * len(paragraph):
        return False
    bare = [word.strip(NOT_A_WORD) for word in words]
    lower_case = sum(word.isalpha() and word.islower() for word in bare)
    function_words = sum(word.lower() in FUNCTION_WORDS for word in bare)
    return lower_case >= MIN_LOWER_CASE * len(words) and function_words >= MIN_FUNCTION_WORDS * len(words)


def of_python(source: bytes) -> Iterator[str]:
    """Prose of a module's docstrings and of the multi-line texts at module and class level.

    Extension modules are documented in such texts: `add_docstr(torch.abs, <text>)`. The source is read in the encoding that it declares
    (PEP 263). Source that this Python cannot parse gives no prose, as it may be for another version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for text in _texts(tree.body, in_function=False):
        yield from paragraphs(inspect.cleandoc(text))


def _texts(body: Iterable[ast.stmt], *, in_function: bool) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            documented = ast.get_docstring(statement, clean=False)
            if documented is not None:
                yield documented
            rest = statement.body[0 if documented is None else 1 :]
            yield from _texts(rest, in_function=not isinstance(statement, ast.ClassDef))
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for part in ("body", "orelse", "finalbody"):
                yield from _texts(getattr(statement, part, ()), in_function=in_function)
        elif not in_function and isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign):
            is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            for node in ast.walk(statement):
                is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
                if is_text and (is_docstring or "\n" in node.value):
                    yield node.value


def of_documentation(text: str, *, has_header: bool = False) -> Iterator[str]:
    """Prose of a reStructuredText, Markdown or plain text file without fenced code. `has_header`: it is a METADATA file."""
    text = text.replace("\r\n", "\n")
    if has_header:
        text = text.partition("\n\n")[2]
    yield from paragraphs(FENCE.sub("", text))
