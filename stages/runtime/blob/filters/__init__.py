"""One reversible transform per file, applied before a codec. Two kinds; the contract, checked over every file of this folder:

    ON_ARRAYS = False                                    of bytes
        length(size, **options) -> int                   the number of bytes that `size` bytes become
        forward(data, **options) -> bytes                ValueError with one sentence for data that it cannot hold
        inverse(data, *, size, **options) -> bytes       the `size` bytes that forward was given
    ON_ARRAYS = True                                     of matrices of codes; it never gets any other array
        EXTRA = ("order",)                               suffixes of further arrays that the inverse needs, stored as <name>.<word>
        stored_shape(shape) -> tuple
        forward(array_MK) -> (array, {word: array})
        inverse(array, {word: array}) -> array_MK

Options are keyword-only, have no defaults, and are checked in every function, because they come from a file. An inverse raises CodecError
with one sentence for data that it cannot restore.
"""
