"""SentencePiece BPE training, with lossless settings or exactly with the contest's.

Special ids are as in the contest: pad 0, bos 1, eos 2, unk 3; byte fallback, split digits, no dummy prefix. There are two normalizations:

    nmt_nfkc   the contest's (its exporter's settings): NFKC and merged blanks, whole stripped documents with NUL as a blank;
               the trainer drops documents longer than 4,192 bytes
    identity   nothing is changed or removed, so every text can be recovered; documents are cut at line ends instead of dropped

With CaseOps the text is transformed first, and the four operators are user-defined symbols.
"""

import io
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from stages.runtime.text import caseops, operators_first, sentencepiece_model

CHUNK_BYTES = 4000  # SentencePiece drops training sentences longer than 4192 bytes


def train(
    texts: Iterable[str],
    *,
    size: int,
    character_coverage: float,
    sample_bytes: int | None,
    sample_documents: int | None = None,
    normalization: Literal["identity", "nmt_nfkc"] = "identity",
    caseops_transform: bool = False,
    markers: str = "",
) -> bytes:
    """Model bytes of a BPE vocabulary with `size` pieces, trained on the first `sample_bytes` or `sample_documents` of the texts.

    `markers` is one of sentencepiece_model.MARKERS and needs CaseOps. ValueError if the texts are empty, or too small or uniform for this
    many pieces. Equal texts give equal bytes.
    """
    import sentencepiece

    sink = io.BytesIO()
    taken = _sample(texts, sample_bytes, sample_documents)
    if caseops_transform:
        taken = map(caseops.encode, taken)
    if markers == "operators_first":
        taken = map(operators_first.encode, taken)
    sentences = _documents(taken) if normalization == "nmt_nfkc" else _chunks(taken)
    first = next(sentences, None)
    if first is None:
        raise ValueError("there is no text to train a tokenizer on; point prepare.path at documents")
    own: dict = {"remove_extra_whitespaces": False} if normalization == "identity" else {"hard_vocab_limit": False}
    if caseops_transform:
        own["user_defined_symbols"] = list(caseops.OPERATORS)
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_with(first, sentences),
            model_writer=sink,
            model_type="bpe",
            vocab_size=size,
            character_coverage=character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name=normalization,
            add_dummy_prefix=False,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            num_threads=1,
            minloglevel=2,
            **own,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(f"vocabulary.size {size} does not fit this text; {_way_out(str(error))}") from None
    return sentencepiece_model.with_markers(sink.getvalue(), markers) if markers else sink.getvalue()


def _way_out(message: str) -> str:
    """SentencePiece's two errors about the size, as advice; any other message unchanged."""
    if most := re.search(r"value <= (\d+)", message):
        return f"set it to at most {most.group(1)}, or give more text"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"set it to at least {least.group(1)} (special pieces, bytes and characters), or lower vocabulary.character_coverage"
    reason = message.rsplit("] ", 1)[-1].strip()
    return f"SentencePiece says: {reason}" if reason else "SentencePiece gives no reason; try the settings in params.yaml as published"


def _sample(texts: Iterable[str], num_bytes: int | None, num_documents: int | None) -> Iterator[str]:
    used = 0
    for i, text in enumerate(texts):
        if i == num_documents or (num_bytes is not None and used >= num_bytes):
            return
        used += len(text.encode())
        yield text


def _with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _documents(texts: Iterable[str]) -> Iterator[str]:
    """The documents as the contest's exporter passes them: NUL as a blank, stripped, empty ones skipped."""
    for text in texts:
        if stripped := text.replace("\0", " ").strip():
            yield stripped


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Pieces of at most CHUNK_BYTES, cut at line ends where possible; NUL, which the trainer refuses, is left out."""
    for text in texts:
        chunk, length = [], 0
        for line in text.replace("\0", "").splitlines(keepends=True):
            while line:
                part = line.encode()[:CHUNK_BYTES].decode(errors="ignore")
                if length + len(part.encode()) > CHUNK_BYTES:
                    yield "".join(chunk)
                    chunk, length = [], 0
                chunk.append(part)
                length += len(part.encode())
                line = line[len(part) :]
        if chunk:
            yield "".join(chunk)
