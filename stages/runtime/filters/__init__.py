"""One reversible byte transform per file, applied before a codec: `forward(data) -> bytes`, `inverse(data) -> bytes`, same length."""
