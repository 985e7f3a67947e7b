"""One reversible transform per file, applied before a codec. Two kinds; the contract, checked over every file of this folder:

    ON_ARRAYS = False                                    of bytes
        length(size, **options) -> int                   how many bytes `size` bytes become
        forward(data, **options) -> bytes                ValueError with one sentence for data that it cannot hold
        inverse(data, *, size, **options) -> bytes       the `size` bytes that forward was given
    ON_ARRAYS = True                                     of matrices of codes; what is no matrix is never given to it
        EXTRA = ("order",)                               words for arrays that the inverse needs too, stored as <name>.<word>
        stored_shape(shape) -> tuple
        forward(array_MK) -> (array, {word: array})
        inverse(array, {word: array}) -> array_MK

Options are keyword-only, have no defaults, and are checked in every function: they come from a file. What an inverse cannot undo is a
CodecError with one sentence.
"""
