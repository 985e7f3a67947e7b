"""The decoder of trellis-coded levels: the machine of each column, and the parity that it gives to the levels."""

import numpy as np
import pytest

from stages.runtime.weights import trellis


@pytest.mark.parametrize("states", sorted(trellis.POLYNOMIALS))
def test_levels_are_those_of_the_machine_run_bit_by_bit(states):
    h0, h1 = trellis.POLYNOMIALS[states]
    length = states.bit_length() - 1
    codes = np.random.default_rng(states).integers(-9, 10, (40, 3))
    for column in range(3):
        bits = [0] * (length + 1)  # s_1 .. s_v, and s_(v+1) = 0
        for row in range(40):
            z0 = bits[0]
            p = 2 * int(codes[row, column]) + z0
            z1 = (p >> 1) & 1
            assert trellis.half_steps(codes, states)[row, column] == p and p % 2 == z0
            bits = [bits[i] ^ ((h0 >> i) & 1) * z0 ^ ((h1 >> i) & 1) * z1 for i in range(1, length + 1)] + [0]


@pytest.mark.parametrize("states", sorted(trellis.POLYNOMIALS))
def test_two_ways_lead_into_every_state_and_two_out_of_it(states):
    table = trellis.transitions(states)
    assert table.shape == (states, 2) and np.bincount(table.ravel(), minlength=states).tolist() == [2] * states
    assert (table[:, 0] != table[:, 1]).all()


def test_columns_have_machines_of_their_own():
    codes = np.array([[1, 0], [0, 0], [3, 0], [0, 0]], np.int8)
    assert np.array_equal(trellis.half_steps(codes, 8)[:, 1], np.zeros(4)) and trellis.half_steps(codes, 8)[:, 0].any()
    assert np.array_equal(trellis.half_steps(codes[:, :1], 8), trellis.half_steps(codes, 8)[:, :1])


def test_largest_codes_do_not_wrap_around():
    codes = np.array([[127], [-128], [127]], np.int8)
    assert set(trellis.half_steps(codes, 4).ravel() // 2) == {127, -128}
