"""One coder of integer matrices per file. The contract, checked over every file of this folder:

    encode(codes: list[np.ndarray], contexts: list[MatrixContext], **options) -> bytes     deterministic; options are keyword-only
    decode(blob: bytes, contexts: list[MatrixContext]) -> list[np.ndarray]                 the same integers, as int32

A codec sees bytes, a coder sees matrices: which axis is the residual stream, which matrices share it, how fine each row and
column was rounded. All that stands in the contexts, which the decoder has before it reads the codes: they come from the header
of the payload and from the sections before it. The bytes of a blob mean nothing without its contexts.

`encode` takes any integer dtype; every value fits in int32. `decode` checks sizes before it allocates for them, and raises
CodecError with one sentence for anything damaged. Decoding is bit-exact on every machine: integers, or floating point whose
every result is determined by IEEE 754.
"""

from dataclasses import dataclass

import numpy as np

ROLES = ("embedding", "query", "key", "value", "output", "up", "down", "table", "projection", "other")


@dataclass(frozen=True, eq=False)
class MatrixContext:
    """What is known of a matrix of M rows (outputs) and K columns (inputs) before its codes are read."""

    name: str
    shape: tuple[int, int]  # (M, K)
    role: str  # one of ROLES
    layer: int  # -1: of no layer
    row_steps: np.ndarray  # int16 (M,): log2 of the step in eighths of an octave, relative; zeros where nothing is stored
    column_steps: np.ndarray  # int16 (K,): the same for the columns
    trellis: int  # states of the trellis that made the codes; 0: plain rounding

    def __post_init__(self):
        rows, columns = self.shape
        if self.role not in ROLES:
            raise ValueError(f"matrix {self.name} has role {self.role!r}; it takes one of {', '.join(ROLES)}")
        if self.row_steps.shape != (rows,) or self.column_steps.shape != (columns,):
            raise ValueError(
                f"matrix {self.name} has {rows} x {columns} codes, but {self.row_steps.shape} row steps and "
                f"{self.column_steps.shape} column steps; give one per row and one per column"
            )
