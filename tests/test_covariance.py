"""The covariance coder: the same integers back, the same bytes everywhere, never much above a histogram, nothing damaged gets through."""

import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from covariance_golden import FOLDER, cases, correlated, noise, plan

from stages.runtime.blob.codecs import CodecError
from stages.runtime.blob.coders import MatrixContext
from stages.runtime.blob.coders.covariance import coder, columns, histogram, normal, rans, regression
from stages.runtime.weights import trellis

ROOT = Path(__file__).parents[1]
EDGES = {
    "no matrix": [],
    "no rows": [np.zeros((0, 7), np.int8)],
    "no columns": [np.zeros((7, 0), np.int8)],
    "one element": [np.array([[5]])],
    "one row": [correlated(1, 1, 300, 20)],
    "one column": [correlated(1, 300, 1, 20)],
    "constant": [np.full((40, 30), 3, np.int8)],
    "zeros": [np.zeros((300, 20), np.int16)],
    "extremes of int32": [np.array([[-(2**31), 2**31 - 1], [0, -(2**31)], [2**31 - 1, -1]])],
    "extremes among small": [np.where(np.arange(6000).reshape(200, 30) % 997 == 0, -(2**31), correlated(2, 200, 30, 20))],
    "wide": [noise(1, 3 * 2100).reshape(3, 2100)],
    "large": [correlated(3, 300, 20, 1) * 1000003 % 2**31],
    "ternary": [np.sign(correlated(4, 300, 20, 60))],
}


def entropy(codes: np.ndarray) -> float:
    """Bytes of an ideal coder that knows the histogram."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / codes.size)).sum()) / 8


def size(*matrices: np.ndarray) -> int:
    return len(coder.encode(list(matrices), [plan(str(i), m.shape, "other", -1) for i, m in enumerate(matrices)]))


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("role", ["up", "down"])
def test_codes_come_back_unchanged(case, role):
    plans = [plan(case, matrix.shape, role, 0) for matrix in EDGES[case]]
    decoded = coder.decode(coder.encode(EDGES[case], plans), plans)
    assert [matrix.dtype for matrix in decoded] == [np.dtype(np.int32)] * len(plans)
    for found, expected in zip(decoded, EDGES[case], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", cases())
def test_the_golden_blobs_decode_and_are_made_again_byte_for_byte(name):
    codes, plans = cases()[name]
    blob = (FOLDER / f"{name}.bin").read_bytes()
    for found, expected in zip(coder.decode(blob, plans), codes, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert coder.encode(codes, plans) == blob


@pytest.mark.parametrize(
    "machine",
    [
        {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F"},
        *(
            pytest.param(machine, marks=pytest.mark.slow)
            for machine in (
                {"OPENBLAS_NUM_THREADS": "1"},
                {"OPENBLAS_NUM_THREADS": "2"},
                {"OPENBLAS_CORETYPE": "Prescott"},
                {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F"},
            )
        ),
    ],
    ids=lambda m: "_".join(m.values()),
)
def test_threads_kernels_and_vector_units_do_not_change_a_bit(machine):
    """Another BLAS kernel and numpy without its vector loops round and add in other orders: as near to another machine as one gets."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "covariance_golden.py")],
        capture_output=True,
        text=True,
        env=os.environ | machine,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("codes, lanes", [(0, 1), (65_536, 2), ((1 << 20) - 1, 31), (1 << 20, 128), (36_000_000, 1024)])
def test_a_blob_has_lanes_by_its_codes(codes, lanes):
    """A lane costs four bytes; with fewer than a row of the smallest block has, decoding takes twice as long."""
    assert coder._lanes(codes) == lanes


def test_a_code_is_coded_without_those_that_come_after_it():
    rows, width = 300, 40
    codes = correlated(5, rows, width, 20)
    order, (start, end) = columns.spread(rows), columns.blocks(rows)[-1]
    later = codes.copy()
    later[order[start:end], 21:] += noise(6, (end - start) * (width - 21)).reshape(-1, width - 21) // 40

    def steps(matrix: np.ndarray) -> list[np.ndarray]:
        stream = rans.Encoder(lanes=1024)
        columns.code(stream, matrix.shape, np.full(width, 100.0), regression.Pool(width), "other", None, matrix.T)
        return stream.steps

    first = (len(columns.blocks(rows)) - 1) * width
    for column, (one, other) in enumerate(zip(steps(codes), steps(later), strict=True)):
        if column < first + 21:
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(steps(codes)[-1], steps(later)[-1])


def test_columns_that_predict_one_another_cost_less_than_their_histogram():
    codes = correlated(7, 1500, 40, 15)
    assert size(codes) < 0.95 * entropy(codes)


def test_a_matrix_is_cheaper_after_one_with_the_same_columns():
    codes = [correlated(seed, 200, 40, 15) for seed in (8, 9)]
    assert size(*codes) < 0.985 * (size(codes[0]) + size(codes[1]))


@pytest.mark.slow
def test_what_a_partner_knows_is_not_paid_twice():
    up = correlated(10, 400, 200, 15)
    down = (up + noise(11, up.size).reshape(up.shape) // 30).T
    together = coder.encode([up, down], [plan("u", up.shape, "up", 0), plan("d", down.shape, "down", 0)])
    apart = coder.encode([up, down], [plan("u", up.shape, "up", 0), plan("d", down.shape, "down", 1)])
    assert len(together) < 0.97 * len(apart)


@pytest.mark.slow
def test_rows_like_an_earlier_one_cost_little():
    codes = correlated(12, 600, 96, 15)
    codes[300:] = codes[7] + noise(13, 300 * 96).reshape(300, 96) // 150
    assert size(codes) < 0.85 * size(correlated(12, 600, 96, 15))


def test_steps_of_the_columns_are_used_where_they_explain_the_codes():
    exponents = noise(14, 40) // 30
    codes = correlated(15, 128, 40, 1) >> np.clip(exponents + 4, 0, 8)
    steps = 8 * np.clip(exponents + 4, 0, 8)
    known = coder.encode([codes], [plan("c", codes.shape, "up", 0, columns=steps)])
    unknown = coder.encode([codes], [plan("c", codes.shape, "up", 0)])
    assert len(known) < 0.95 * len(unknown)


def test_parity_of_a_trellis_along_the_coders_rows_is_not_paid_for():
    """Levels of deviation 0.6 steps on the half-step grid: what the parity tells is 6 % of their bits. Before, codes were coded alone."""
    rows, width = 400, 40
    state, codes = np.zeros(rows, np.uint8), np.empty((width, rows), np.int64)
    level = noise(16, rows * width).reshape(width, rows) / 120
    for j in range(width):
        codes[j] = np.rint(level[j] - (state & 1) / 2)
        state = trellis.transitions(8)[state, codes[j] & 1]
    known, unknown = (coder.encode([codes], [plan("d", codes.shape, "down", 0, trellis=states)]) for states in (8, 0))
    assert len(known) < 0.97 * len(unknown)
    np.testing.assert_array_equal(coder.decode(known, [plan("d", codes.shape, "down", 0, trellis=8)])[0], codes)
    with pytest.raises(CodecError, match="coded in a way that is not known"):
        coder.decode(known, [plan("d", codes.shape, "down", 0)])


@pytest.mark.parametrize("levels", [64, *(pytest.param(levels, marks=pytest.mark.slow) for levels in (2, 13, 255))])
def test_random_codes_cost_a_thousandth_more_than_plain_digits(levels):
    codes = np.random.default_rng(levels).integers(-(levels // 2), levels - levels // 2, (400, 500))
    assert size(codes) <= 1.001 * codes.size * np.log2(levels) / 8 + 100


@pytest.mark.parametrize("power", [2, *(pytest.param(power, marks=pytest.mark.slow) for power in (1, 3))])
def test_independent_codes_cost_at_most_a_thousandth_more_than_their_entropy(power):
    normal_codes = np.random.default_rng(power).normal(size=(600, 400))
    codes = np.rint(2 * np.sign(normal_codes) * np.abs(normal_codes) ** power).astype(int)  # 3: tails to hundreds
    table = 2 * len(np.unique(codes))
    assert size(codes) <= 1.001 * entropy(codes) + table + 100


def test_three_symbols_give_these_bytes():
    stream = rans.Encoder(lanes=2)
    stream.put(np.array([0, 32768]), np.array([32768, 16384]))
    stream.put(np.array([49152]), np.array([16384]))
    states = np.array([(((1 << 22) // 16384 << 16) + 49152), ((1 << 22) // 16384 << 16) + 32768])
    states[0] = (states[0] // 32768 << 16) + states[0] % 32768
    assert stream.finish() == states.astype("<u8").view(np.uint8).reshape(2, 8)[:, :5].tobytes()


def test_the_stream_is_as_long_as_its_intervals_say():
    random = np.random.default_rng(0)
    stream, start = rans.Encoder(lanes=16), random.integers(0, 30000, 200000)
    stream.put(start, np.full(200000, 900))
    assert len(stream.finish()) <= 1.0002 * 200000 * np.log2(65536 / 900) / 8 + 16 * 5


def test_every_table_fills_its_interval_and_is_the_normal_distribution():
    from math import erf

    cumulative, half = normal.tables()
    cumulative = cumulative.reshape(normal.CLASSES, normal.POSITIONS, normal.WIDTH)
    for index, reach in enumerate(half):
        count = 2 * reach + 2
        assert (cumulative[index, :, 0] == 0).all() and (cumulative[index, :, count + 1 :] == rans.TOTAL).all()
        assert (np.diff(cumulative[index, :, : count + 2]) >= 1).all()
    at, position, deviation = 30, 5, 2.0 ** (30 / 8 - 3)
    edges = np.arange(2 * half[at] + 3) - half[at] - 0.5 - (position + 0.5) / 16
    exact = np.array([erf(edge / deviation / 2**0.5) for edge in edges]) / 2
    np.testing.assert_allclose(np.diff(cumulative[at, position, : 2 * half[at] + 3]) / rans.TOTAL, np.diff(exact), atol=2e-4)


def test_powers_and_their_logarithms_agree_with_the_library():
    n = np.arange(-300, 300)
    np.testing.assert_allclose(normal.power(n), 2.0 ** (n / 16), rtol=1e-14)
    squares = np.exp(np.linspace(-12, 12, 999))
    assert (normal.sixteenths(squares) == np.rint(8 * np.log2(squares))).mean() > 0.99


def test_the_factorisation_is_that_of_the_library():
    rows = correlated(16, 400, 70, 15).astype(float)
    matrix = np.corrcoef(rows.T) + 0.1 * np.eye(70)
    lower, variance = regression.factor(matrix)
    expected = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(lower / regression.ONE + np.eye(70), expected / np.diagonal(expected), atol=1e-3)
    np.testing.assert_allclose(variance, np.diagonal(expected) ** 2, rtol=1e-3)


def test_small_systems_are_solved():
    random = np.random.default_rng(1)
    root = random.normal(size=(5, 3, 3))
    full, right = root @ root.transpose(0, 2, 1) + np.eye(3), random.normal(size=(5, 3))
    found = regression.solve([[full[:, i, j] for j in range(i + 1)] for i in range(3)], [right[:, i] for i in range(3)])
    np.testing.assert_allclose(np.stack(found, 1), np.linalg.solve(full, right[..., None])[..., 0], rtol=1e-9)


@pytest.mark.parametrize("rows", [1, 2, 127, 129, 1000, 5000])
def test_blocks_and_order_cover_every_row_once(rows):
    assert sorted(columns.spread(rows)) == list(range(rows))
    bounds = columns.blocks(rows)
    assert [a for a, _ in bounds] == [0] + [b for _, b in bounds[:-1]] and bounds[-1][1] == rows


@pytest.mark.parametrize("values", [[0], [127, -127, 128, -128], [2**31 - 1, -(2**31), 0, 5, 1 << 20], list(range(-300, 300))])
def test_a_histogram_gives_its_values_back(values):
    values = np.array(values, np.int64)
    for write, read in (
        (lambda s: histogram.encode(s, values)[2:], lambda s, h: histogram.decode(s, len(values), h)),
        (
            lambda s: (int(values.min()), int(np.ptp(values))) if histogram.encode_digits(s, values) else (),
            lambda s, h: histogram.decode_digits(s, len(values), *h),
        ),
    ):
        encoder = rans.Encoder(lanes=3)
        header = write(encoder)
        decoder = rans.Decoder(encoder.finish(), 3, np.empty(0, np.int64))
        np.testing.assert_array_equal(read(decoder, header), values)
        decoder.close()


def test_codes_of_another_shape_or_kind_are_refused():
    for codes in (np.zeros((2, 3), np.int8), np.zeros((3, 2))):
        with pytest.raises(ValueError, match=r"its context asks for integers \(3, 2\)"):
            coder.encode([codes], [plan("m", (3, 2), "up", 0)])


def small() -> tuple[list[np.ndarray], list[MatrixContext], bytes]:
    """One matrix of each kind, quick to decode."""
    skewed = np.minimum(np.abs(noise(17, 600)) // 60, 3).reshape(60, 10) ** 3
    codes = [correlated(18, 400, 4, 2), skewed, (noise(19, 400).reshape(40, 10) * 7919) % 50]
    plans = [plan(str(i), matrix.shape, "table", i) for i, matrix in enumerate(codes)]
    blob = coder.encode(codes, plans)
    kinds, at = [], 10
    for matrix in plans:
        (kind, *_), at = coder._header(blob, at, matrix)
        kinds.append(kind)
    assert kinds == [coder.PREDICTED, coder.HISTOGRAM, coder.DIGITS]
    return codes, plans, blob


def mutants(blob: bytes, count: int):
    random = np.random.default_rng(2)
    for trial in range(count):
        mutant = bytearray(blob)
        for _ in range(random.integers(1, 4)):
            mutant[random.integers(0, len(mutant) if trial % 2 else 60)] = random.integers(0, 256)
        if trial % 5 == 0:
            del mutant[random.integers(0, len(mutant)) :]
        if trial % 7 == 0:
            mutant += bytes(random.integers(1, 9))
        if mutant != blob:
            yield bytes(mutant)


def test_a_damaged_blob_is_refused():
    _, plans, blob = small()
    for mutant in mutants(blob, 5000):
        with pytest.raises(CodecError):
            coder.decode(mutant, plans)


@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_forged_blob_is_refused_or_gives_matrices_of_the_right_shape_and_takes_no_memory(count):
    _, plans, blob = small()
    tracemalloc.start()
    for mutant in mutants(blob[4:], count):
        try:
            decoded = coder.decode(zlib.crc32(mutant).to_bytes(4, "little") + mutant, plans)
        except CodecError:
            continue
        assert [(matrix.shape, matrix.dtype) for matrix in decoded] == [(plan.shape, np.int32) for plan in plans]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("length", [0, 1, 9, 10, 40, -1, -7])
def test_a_truncated_blob_is_refused(length):
    _, plans, blob = small()
    with pytest.raises(CodecError):
        coder.decode(blob[:length], plans)


def test_a_header_that_claims_a_matrix_too_wide_to_be_predicted_is_refused_before_anything_is_made_for_it():
    blob = coder.encode([correlated(2, 1000, 40, 25)], [plan("m", (1000, 40), "up", 0)])
    assert blob[10] == coder.PREDICTED
    tracemalloc.start()
    with pytest.raises(CodecError, match="matrix m is coded in a way that is not known"):
        coder.decode(blob, [plan("m", (2100, 2100), "up", 0)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2100 * 2100 + (8 << 20)  # what it declares; sums over its width would be 35 MB more, each
