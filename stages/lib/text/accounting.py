"""Count the bytes of every document in three independent ways, and name the likely mistake where the counts differ.

    text      bytes of the document itself (encoder.py counts them on the text that the tokenizer's certificate names)
    sidecar   sum of the bytes per token, as the shards will hold them
    pieces    the contest's look-up tables over the ids, built here from the names of the pieces

Most invalid records of the contest had a mistake here. The known mistakes are recognised by their traces:

| trace                                                        | seen in             |
|--------------------------------------------------------------|---------------------|
| every token with a leading blank has one byte too many       | #1698 and its heirs |
| a byte piece counts 3 bytes, the size of U+FFFD              | #1143, #1184        |
| CaseOps operators have bytes: counted with the piece tables  | #2071               |
| BOS has bytes                                                |                     |
| a sidecar read as tokens: it has zeros, a token stream none  | the `_val_*` glob   |
| fewer documents than the 50,000 of the contest's val split   | #2127               |
"""

import functools

import numpy as np

from stages.runtime.text.tokenizer import BLANK, BOS, NUM_SPECIAL, Tokenizer

VAL_DOCUMENTS = 50_000  # number of documents at the start of the contest's list that are val
VAL_BYTES = 151_080_891  # their canonical bytes, whatever the tokenizer
# documents.jsonl of each split of the built-in text (stages/prepare/distributions.csv), and the bytes of all three.
BUILTIN_SHA256 = {
    "train": "777e4bcdfa2c836c5a4e920a0f342ec52be741a5808f78699b538692955c614c",
    "holdout": "f1725eeb0d7b6f517c09499b349ae108a8ba4e014941bb6e7486d24f52e8b07c",
    "val": "ce28742d90e3a9e92026f645893bf9a1a53c7352d43ce5397b523dc229f73c0c",
}
BUILTIN_BYTES = 9_831_882
VAL_TOLERANCE = 0.0002  # relative; raw, normalized and piece-covered bytes differ by less
PUBLISHED_TOKENIZERS = {  # MD5 of the file, as dvc.lock has it
    "8feec129bba4d7e07d61fef958a9dd84": "fineweb_1024_bpe.model",
    "b73929616bf6303b953396b767a29b99": "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model",
}
VAL_TOKENS = {"sp1024": 62_021_846, "sp8192": 40_540_803, "sp8192_lossless_caps_caseops_v1_reserved": 47_853_344}  # with BOS


@functools.lru_cache(maxsize=4)
def piece_tables(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The contest's look-up tables over ids: bytes without one leading blank (int64), has a leading blank, is a boundary.

    They are built by the published rule from the names of the pieces, independently of how runtime/text/tokenizer.py decodes them.
    """
    size, processor = tokenizer.vocabulary_size, tokenizer.processor
    num_bytes, lead, boundary = np.zeros(size, np.int64), np.zeros(size, bool), np.ones(size, bool)
    for piece in range(size):
        if processor is None:
            boundary[piece] = piece < NUM_SPECIAL
            num_bytes[piece] = piece >= NUM_SPECIAL
        elif not (processor.IsControl(piece) or processor.IsUnknown(piece) or processor.IsUnused(piece)):
            name = processor.IdToPiece(piece)
            boundary[piece], lead[piece] = False, name.startswith(BLANK)
            num_bytes[piece] = 1 if processor.IsByte(piece) else len(name.removeprefix(BLANK).replace(BLANK, " ").encode())
    return num_bytes, lead, boundary


def piece_counts(tokenizer: Tokenizer, tokens: np.ndarray) -> np.ndarray:
    """The contest's byte count of each token of a stream, int64 (N,): bytes[y] + (leading_blank[y] and not boundary[x])."""
    without_blank, lead, boundary = piece_tables(tokenizer)
    tokens = np.asarray(tokens)
    counts = without_blank[tokens]
    counts[1:] += lead[tokens[1:]] & ~boundary[tokens[:-1]]
    return counts


def check_documents(
    tokenizer: Tokenizer,
    tokens: np.ndarray,
    sidecar: np.ndarray,
    starts: np.ndarray,
    *,
    text_bytes: np.ndarray,
    written_bytes: np.ndarray,
    where: str,
    number: int = 1,
) -> int:
    """Compare the three counts of each document of a stream; `starts` are their BOS. Returns the total of the piece tables.

    `text_bytes` (D,) are the bytes of the documents. `written_bytes` (D,) are those of the text that their pieces spell, which CaseOps
    changes. ValueError names the first document that disagrees (counted from `number`), the token, and the likely mistake.
    """
    if not len(starts):
        return 0
    tokens, counts, pieces = np.asarray(tokens), np.asarray(sidecar, np.int64), piece_counts(tokenizer, tokens)
    by_sidecar, by_pieces = np.add.reduceat(counts, starts), np.add.reduceat(pieces, starts)
    # The tables do not count a blank at the start of a document; the text that the pieces spell contains it.
    first_tokens = np.minimum(starts + 1, len(tokens) - 1)
    free_blank = piece_tables(tokenizer)[1][tokens[first_tokens]] & (first_tokens > starts)
    wrong = (by_sidecar != text_bytes) | (by_pieces + free_blank != written_bytes) | (counts[starts] != 0)
    if tokenizer.counts_follow_from_ids:
        by_token = pieces.copy()
        if tokenizer.is_lossless:
            by_token[first_tokens] += free_blank
        wrong |= np.logical_or.reduceat((counts != by_token) & ~np.isin(tokens, tokenizer.operators), starts)
    if wrong.any():
        first = int(np.argmax(wrong))
        part = slice(starts[first], starts[first + 1] if first + 1 < len(starts) else len(tokens))
        raise ValueError(
            explain(
                tokenizer,
                tokens[part],
                counts[part],
                text_bytes=int(text_bytes[first]),
                by_pieces=int(by_pieces[first]),
                where=f"{where}, document {number + first}",
            )
        )
    return int(pieces.sum())


def check_operators(tokenizer: Tokenizer, tokens: np.ndarray, sidecar: np.ndarray, *, text_bytes: int, where: str) -> None:
    """The possible checks of a published CaseOps sidecar over nmt_nfkc without the raw text: BOS and operators have no bytes, and the sum
    is near the bytes of the normalized document (which differs by merged blanks and replaced characters). This proves little, so the audit
    certifies such a sidecar only if its total equals the contest's."""
    tokens, counts = np.asarray(tokens), np.asarray(sidecar, np.int64)
    right = tokenizer.byte_counts(tokens)
    silent = np.isin(tokens, tokenizer.operators) | (tokens == BOS)
    if (counts[silent] > right[silent]).any() or abs(int(counts.sum()) - text_bytes) > 16 + text_bytes // 20:
        raise ValueError(
            explain(tokenizer, tokens, counts, text_bytes=text_bytes, by_pieces=int(piece_counts(tokenizer, tokens).sum()), where=where)
        )


def explain(tokenizer: Tokenizer, tokens: np.ndarray, counts: np.ndarray, *, text_bytes: int, by_pieces: int, where: str) -> str:
    """One sentence with the counts, the first token where they differ, and the known mistake that this looks like."""
    right = tokenizer.byte_counts(tokens)
    sentence = f"{where}: the text has {text_bytes} bytes, the sidecar sums to {int(counts.sum())}, the pieces to {by_pieces}"
    wrong = np.flatnonzero(counts != right)
    if not len(wrong):
        return f"{sentence}; the tokens are not those of this text: make or get both again"
    first = int(wrong[0])
    name = _name(tokenizer, tokens, counts, right) or "; make or get the sidecar again"
    return (
        f"{sentence}; they part at token {first} (id {int(tokens[first])}: {int(counts[first])} bytes in the sidecar, "
        f"{int(right[first])} in the text){name}"
    )


def _name(tokenizer: Tokenizer, tokens: np.ndarray, counts: np.ndarray, right: np.ndarray) -> str:
    """The known mistake whose trace the counts of a document have, or nothing."""
    if (counts[tokens == BOS] > 0).any():
        return ": bytes of BOS are counted, it stands for no text"
    operators = np.isin(tokens, tokenizer.operators)
    if (counts[operators] > right[operators]).any():
        return ": CaseOps tokens are counted with the piece table (#2071), operators stand for no text; use the raw documents' sidecar"
    is_byte = np.array([tokenizer.processor is not None and tokenizer.processor.IsByte(int(piece)) for piece in tokens])
    if is_byte.any() and (counts[is_byte] == len("\ufffd".encode())).all():
        return ": byte pieces are counted as the 3-byte replacement character (#1143, #1184), each is one byte"
    if is_byte.any() and (counts[is_byte] == len("<0x00>")).all():
        return ": byte pieces are counted by the 6 letters of their name (#1143, #1184), each is one byte"
    lead = piece_tables(tokenizer)[1][tokens]
    if lead.any() and (counts[lead] == right[lead] + 1).mean() > 0.5:
        return ": the leading blank is added twice (#1698)"
    return ""


def check_stream(tokenizer: Tokenizer, tokens: np.ndarray, *, where: str, at_start: bool) -> None:
    """ValueError if `tokens` cannot be a part of a token stream. `at_start`: they are the beginning of a split."""
    if not len(tokens):
        return
    if int(tokens.max()) >= tokenizer.vocabulary_size:
        position = int(np.argmax(tokens >= tokenizer.vocabulary_size))
        raise ValueError(
            f"{where}: token {position} is {int(tokens[position])}, above the vocabulary of {tokenizer.vocabulary_size}; "
            "use the tokenizer that made these shards"
        )
    special = np.flatnonzero((tokens < NUM_SPECIAL) & (tokens != BOS))
    if len(special):
        raise ValueError(
            f"{where}: token {int(special[0])} is {int(tokens[special[0]])}, which no text gives (pad 0, eos 2, unk 3); it "
            "looks like a byte sidecar (fineweb_*_bytes_*.bin) that was taken for tokens: give it its name back"
        )
    if at_start and tokens[0] != BOS:
        raise ValueError(
            f"{where} starts with token {int(tokens[0])}, not with BOS ({BOS}); the first shard of the split is missing, or "
            "this is a byte sidecar that was taken for tokens"
        )


def check_val_documents(found: int, expected: int, *, where: str) -> None:
    """ValueError unless the val split has exactly as many documents as params.yaml says (the contest has 50,000)."""
    if found == expected:
        return
    known = " (10,000 is the default of a circulated script, which trains on the other 40,000: #2127)" if found == 10_000 else ""
    raise ValueError(
        f"{where} has {found:,} val documents{known}, prepare.val_documents says {expected:,}; the field's val split is the "
        f"first {VAL_DOCUMENTS:,} documents: get the full split, or set prepare.val_documents to {found} if this is meant"
    )


def is_fields_val(documents: int, num_bytes: int) -> bool:
    """Whether a val split has the contest's number of documents and, within the tolerance, its number of bytes."""
    return documents == VAL_DOCUMENTS and abs(num_bytes - VAL_BYTES) <= VAL_TOLERANCE * VAL_BYTES


def check_val_fingerprint(*, documents: int, num_bytes: int, tokens: int | None = None, variant: str = "", where: str) -> None:
    """ValueError unless these are the contest's 50,000 val documents, judged by their bytes and, for known exports, their tokens."""
    check_val_documents(documents, VAL_DOCUMENTS, where=where)
    if not is_fields_val(documents, num_bytes):
        raise ValueError(
            f"the val split of {where} has {num_bytes:,} bytes in {documents:,} documents, the field's has {VAL_BYTES:,}; "
            "scores on these other documents cannot be compared: use the field's export, or prepare.source local"
        )
    if tokens is not None and variant in VAL_TOKENS and tokens != VAL_TOKENS[variant]:
        raise ValueError(
            f"the val split of {where} has {tokens:,} tokens, the field's {variant} export has {VAL_TOKENS[variant]:,}; "
            "scores on this other export cannot be compared: use the field's, or prepare.source local"
        )
