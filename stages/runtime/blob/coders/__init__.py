"""One coder of integer matrices per file. The contract, checked over every file of this folder:

    encode(codes: list[np.ndarray], contexts: list[MatrixContext], **options) -> bytes     deterministic; options are keyword-only
    decode(blob: bytes, contexts: list[MatrixContext]) -> list[np.ndarray]                 the same integers, as int32

A codec gets bytes; a coder gets matrices, and knows which axis is the residual stream, which matrices share it, and the rounding step of
each row and column. The contexts hold this information. The decoder has them before it reads the codes, because they come from the
header of the payload and from the sections before it. Without its contexts, the bytes of a blob cannot be decoded.

`encode` takes any integer dtype; every value fits in int32. `decode` checks sizes before it allocates for them, and raises
CodecError with one sentence for damaged data. Decoding gives the same bits on every machine: it uses integers, or floating-point
operations whose results IEEE 754 determines.
"""

from dataclasses import dataclass

import numpy as np

ROLES = ("embedding", "query", "key", "value", "output", "up", "down", "table", "projection", "other")


@dataclass(frozen=True, eq=False)
class MatrixContext:
    """What is known about a matrix of M rows (outputs) and K columns (inputs) before its codes are read."""

    name: str
    shape: tuple[int, int]  # (M, K)
    role: str  # one of ROLES
    layer: int  # -1: not in a layer
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
