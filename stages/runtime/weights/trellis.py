"""Decode trellis-coded levels from their indices: one table look-up per weight, all columns at once.

Levels are on a grid of half steps, level = p / 2. A state machine runs down the rows of every column, from state 0. The state's
lowest bit z0 is the parity of p, so only k with p = 2 k + z0 is stored:

    z0 = s_1;   z1 = k mod 2;   s_i <- s_(i+1) xor h0_i z0 xor h1_i z1        (bits s_1..s_v of 2^v states, s_(v+1) = 0)

Neighbouring levels of one state are a whole step apart, but all rows together use the grid of half steps: entropy-coded trellis-coded
quantization. Polynomials: Ungerboeck's amplitude codes (IEEE Transactions on Information Theory, 1982), systematic feedback form.
"""

# M rows, K columns

import numpy as np

POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}  # states: (h0, h1)


def transitions(states: int) -> np.ndarray:
    """The next state, uint8 (states, 2), by state and z1."""
    h0, h1 = POLYNOMIALS[states]
    state, z1 = np.arange(states)[:, None], np.arange(2)[None, :]
    return ((state >> 1) ^ (state & 1) * (h0 >> 1) ^ z1 * (h1 >> 1)).astype(np.uint8)


def parities(codes_MK: np.ndarray, states: int) -> np.ndarray:
    """z0 of every weight, uint8 (M, K). Given the rows above, a coder knows this bit of p before it decodes k."""
    table, bits_MK = transitions(states), (codes_MK & 1).astype(np.uint8)
    out_MK, state_K = np.empty(codes_MK.shape, np.uint8), np.zeros(codes_MK.shape[1], np.uint8)
    for row, bits_K in enumerate(bits_MK):
        out_MK[row] = state_K
        state_K = table[state_K, bits_K]
    return out_MK & 1


def half_steps(codes_MK: np.ndarray, states: int) -> np.ndarray:
    """p = 2 k + z0, int64 (M, K): levels in half steps."""
    return 2 * codes_MK.astype(np.int64) + parities(codes_MK, states)
