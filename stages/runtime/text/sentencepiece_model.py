"""Read the settings of a SentencePiece model file that decide whether it keeps a text unchanged.

A model is a protocol buffer. Only its outermost fields and two of its messages are read here:

    ModelProto      1 pieces   2 trainer_spec   3 normalizer_spec   5 denormalizer_spec
    TrainerSpec     3 model_type (1 unigram, 2 bpe)   24 treat_whitespace_as_suffix
    NormalizerSpec  1 name   2 precompiled_charsmap   3 add_dummy_prefix   4 remove_extra_whitespaces   5 escape_whitespaces

SentencePiece leaves the numbers from 200 on to others. One of them names here what is done with CaseOps operators and blanks: MARKERS.

SentencePiece skips a field of another wire type than it expects, and merges a message that comes again into the one before. A reader that
differs in either takes a model for another, so such a field is refused here, and messages are merged.

Source: sentencepiece_model.proto; protocol buffers' wire format.
"""

from collections.abc import Iterator
from dataclasses import dataclass

NORMALIZER_SPEC, MARKERS_FIELD = 3, 200
MARKERS = "", "fused_markers", "operators_first"
WIRE_TYPES = {2: {3: 0, 24: 0}, NORMALIZER_SPEC: {1: 2, 2: 2, 3: 0, 4: 0, 5: 0}, 5: {2: 2}}  # of the fields above: 0 number, 2 bytes
DAMAGED = "the tokenizer is no protocol buffer of SentencePiece: it is damaged, or made to be read in two ways; give another"


@dataclass(frozen=True)
class TokenizerSettings:
    """Settings of a tokenizer. `lossy_because` lists what changes a text before it is cut into pieces; it is empty if nothing does.
    `markers` is one of MARKERS."""

    normalization: str
    is_bpe: bool
    lossy_because: tuple[str, ...]
    markers: str = ""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Yield the fields of one message: number, value, and the bytes of the whole field. ValueError if the message is damaged."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(message, position)
        elif wire_type == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
            value, position = message[position : position + length], position + length
        else:
            raise ValueError(DAMAGED)
        if position > len(message) or tag >> 32:  # others drop what a tag has beyond 32 bits
            raise ValueError(DAMAGED)
        yield number, value, message[start:position]


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte, position = message[position], position + 1
        value |= (byte & 127) << shift
        if byte < 128 and value < 1 << 64:
            return value, position
    raise ValueError(DAMAGED)


def messages(model: bytes) -> dict[int, dict]:
    """The last value of each field, by the number of its message and its own; MARKERS_FIELD is a message with the field 0. ValueError if a
    field of WIRE_TYPES, or what is no message where one belongs, has another wire type."""
    found: dict[int, dict] = {number: {} for number in (*WIRE_TYPES, MARKERS_FIELD)}
    for number, value, whole in fields(model):
        if number in (1, 2, 3, 4, 5, MARKERS_FIELD) and whole[0] & 7 != 2:
            raise ValueError(DAMAGED)
        if number == MARKERS_FIELD:
            found[number][0] = value
        if number in WIRE_TYPES:
            for key, part, inside in fields(value):
                if inside[0] & 7 != WIRE_TYPES[number].get(key, inside[0] & 7):
                    raise ValueError(DAMAGED)
                found[number][key] = part
    return found


def settings(model: bytes) -> TokenizerSettings:
    """Read the settings of a serialized model that SentencePiece itself has accepted. ValueError for markers that are not known here."""
    trainer, normalizer, denormalizer, markers = messages(model).values()
    markers = bytes(markers.get(0, b"")).decode(errors="replace")
    name = bytes(normalizer.get(1, b"")).decode(errors="replace") or "identity"
    reasons = {
        f"normalization {name} replaces characters": bool(normalizer.get(2)),
        "a blank is put in front of every text": normalizer.get(3, 1) != 0,
        "blanks at the ends and repeated blanks are removed": normalizer.get(4, 1) != 0,
        "blanks are not escaped": normalizer.get(5, 1) == 0,
        "blanks are suffixes of words": trainer.get(24, 0) != 0,
        "decoding replaces characters": bool(denormalizer.get(2)),
    }
    if markers not in MARKERS:
        known = ", ".join(MARKERS[1:])
        raise ValueError(f"the tokenizer has markers {markers[:40]!r}, there are {known}; it is of a later version, or damaged")
    return TokenizerSettings(name, trainer.get(3, 1) == 2, tuple(reason for reason, holds in reasons.items() if holds), markers)


def with_markers(model: bytes, markers: str) -> bytes:
    """The same model, with the name of its markers in it."""
    return model + _number(MARKERS_FIELD << 3 | 2) + _number(len(markers)) + markers.encode()


def _number(value: int) -> bytes:
    """A varint of two bytes or fewer."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


def without_normalization(model: bytes) -> bytes:
    """The same model for text that is already normalized: identity normalization, and no blanks added or removed."""
    name = b"identity"
    spec = bytes((0x0A, len(name))) + name + bytes((0x18, 0, 0x20, 0, 0x28, 1))
    kept = b"".join(whole for number, _, whole in fields(model) if number != NORMALIZER_SPEC)
    return kept + bytes((NORMALIZER_SPEC << 3 | 2, len(spec))) + spec
