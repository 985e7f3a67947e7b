"""Prepared documents: one JSON object with a `text` field per line."""

import json
from collections.abc import Iterator
from pathlib import Path


def read(path: Path) -> Iterator[str]:
    """The texts of a prepared JSONL file, in order. ValueError naming the line that is not one."""
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                text = json.loads(line)["text"]
                text.encode()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number} is not a prepared document ({error}); run: dvc repro prepare") from None
            yield text
