"""Matrices made of integer arithmetic alone, so that every machine and library makes the same; their blobs are in tests/golden/covariance.

python tests/covariance_golden.py            decode and encode the blobs again; exit code 1 if a byte differs
python tests/covariance_golden.py --write    write the blobs: only when the format changes on purpose
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stages.runtime.blob.coders import MatrixContext
from stages.runtime.blob.coders.covariance import coder

FOLDER = Path(__file__).parent / "golden" / "covariance"


def noise(seed: int, count: int) -> np.ndarray:
    """Integers, about normal, deviation about 74: sums of bytes of a multiplicative generator."""
    state, out = seed * 2654435761 % 2**32 | 1, np.empty((count, 4), np.int64)
    for column in range(4):
        multiplier = 747796405 + 2 * (seed + column) * 1566083941
        x = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(state) + np.uint64(column * 374761393)) & np.uint64(2**32 - 1)
        for _ in range(3):
            x = ((x ^ (x >> np.uint64(15))) * np.uint64(multiplier % 2**32 | 1)) & np.uint64(2**32 - 1)
        out[:, column] = ((x >> np.uint64(16)) & np.uint64(255)).astype(np.int64) - 128
    return out.sum(axis=1) // 2


def correlated(seed: int, rows: int, width: int, divisor: int) -> np.ndarray:
    """Rows whose columns predict one another: noise plus a few directions shared by all seeds."""
    directions = noise(1, 6 * width).reshape(6, width)
    factors = noise(seed + 100, 6 * rows).reshape(rows, 6)
    return (noise(seed, rows * width).reshape(rows, width) * 60 + factors @ directions) // (60 * divisor)


def plan(name: str, shape: tuple[int, int], role: str, layer: int, *, columns: np.ndarray | None = None, trellis: int = 0) -> MatrixContext:
    steps = np.zeros(shape[1], np.int16) if columns is None else columns.astype(np.int16)
    return MatrixContext(name, shape, role, layer, np.zeros(shape[0], np.int16), steps, trellis)


def cases() -> dict[str, tuple[list[np.ndarray], list[MatrixContext]]]:
    """By name: codes and plans."""
    up = correlated(2, 200, 40, 25)
    layer = [correlated(3, 40, 40, 25), correlated(4, 40, 40, 25), up, (up // 2 + correlated(5, 200, 40, 40)).T]
    steps = noise(6, 40) // 20
    stepped = correlated(7, 300, 40, 1) // (np.int64(1) << (np.clip(steps, -8, 15) + 16) // 8)
    wild = correlated(8, 600, 24, 8)
    wild[7, 3], wild[100, 20], wild[599, 23] = 2**31 - 1, -(2**31), 12345678
    twins = correlated(9, 300, 40, 20)
    twins[noise(10, 300) > 20] = twins[0]
    uniform = (noise(11, 64 * 64).reshape(64, 64) * 7919) % 64
    return {
        "layer": (
            layer,
            [
                plan("q", (40, 40), "query", 0),
                plan("k", (40, 40), "key", 0),
                plan("u", (200, 40), "up", 0),
                plan("d", (40, 200), "down", 0),
            ],
        ),
        "steps": ([stepped], [plan("s", (300, 40), "up", 1, columns=steps)]),
        "wild": ([wild], [plan("w", (600, 24), "other", -1)]),
        "twins": ([twins + noise(12, 300 * 40).reshape(300, 40) // 110], [plan("t", (300, 40), "embedding", -1)]),
        "parity": (
            [correlated(13, 300, 40, 30).T, correlated(14, 300, 40, 30)],
            [plan("d", (40, 300), "down", 0, trellis=8), plan("u", (300, 40), "up", 0, trellis=8)],
        ),
        "plain": (
            [uniform, np.full((5, 3), -7), np.zeros((0, 4), np.int64), uniform[:1, :1]],
            [
                plan("a", (64, 64), "table", -1),
                plan("b", (5, 3), "other", -1),
                plan("c", (0, 4), "other", -1),
                plan("d", (1, 1), "projection", -1),
            ],
        ),
    }


def main(write: bool) -> int:
    wrong = []
    for name, (codes, plans) in cases().items():
        blob, path = coder.encode(codes, plans), FOLDER / f"{name}.bin"
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(blob)
        decoded = coder.decode(path.read_bytes(), plans)
        if blob != path.read_bytes() or not all(np.array_equal(a, b) for a, b in zip(codes, decoded, strict=True)):
            wrong.append(name)
    print(f"numpy {np.__version__}: {', '.join(wrong) + ' differ' if wrong else 'all blobs are the same, bit for bit'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--write"]))
