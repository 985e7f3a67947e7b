"""SentencePiece BPE training with lossless settings.

Special ids as in the field: pad 0, bos 1, eos 2, unk 3. Differences from the field's own settings: normalization is
`identity` instead of `nmt_nfkc` and blanks are never removed, so that every text comes back unchanged.
"""

import io
import re
from collections.abc import Iterable, Iterator

CHUNK_BYTES = 4000  # SentencePiece drops training sentences longer than 4192 bytes


def train(texts: Iterable[str], *, size: int, character_coverage: float, sample_bytes: int) -> bytes:
    """Model bytes of a BPE vocabulary with `size` pieces, trained on the first `sample_bytes` of the texts.

    ValueError if the texts are empty or too small or uniform for so many pieces. Same texts, same bytes.
    """
    import sentencepiece

    if not 260 < size <= 65536 or not 0 < character_coverage <= 1 or sample_bytes < 1:
        raise ValueError(f"vocabulary takes a size of 261 to 65536 (not {size}), a character_coverage above 0 and up to 1 (not "
                         f"{character_coverage}) and sample_bytes of 1 or more (not {sample_bytes})")
    sink = io.BytesIO()
    chunks = list(_chunks(texts, sample_bytes))
    if not chunks:
        raise ValueError("there is no text to train a tokenizer on; point prepare.path at documents")
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(chunks), model_writer=sink, model_type="bpe", vocab_size=size,
            character_coverage=character_coverage, byte_fallback=True, split_digits=True,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3, num_threads=1, minloglevel=2)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"vocabulary.size {size} does not fit this text; {_way_out(str(error))}") from None
    return sink.getvalue()


def _way_out(message: str) -> str:
    """SentencePiece's two complaints about the size, as advice; anything else as it said it."""
    if most := re.search(r"value <= (\d+)", message):
        return f"set it to at most {most.group(1)}, or give more text"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"set it to at least {least.group(1)} (special pieces, bytes and characters), or lower vocabulary.character_coverage"
    return f"SentencePiece says: {message.rsplit('] ', 1)[-1]}"


def _chunks(texts: Iterable[str], sample_bytes: int) -> Iterator[str]:
    """Pieces of at most CHUNK_BYTES, cut at line ends where possible; NUL, which the trainer refuses, is left out."""
    used = 0
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
                used += len(part.encode())
                line = line[len(part):]
        if chunk:
            yield "".join(chunk)
        if used >= sample_bytes:
            return
