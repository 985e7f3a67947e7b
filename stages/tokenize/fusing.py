"""Published CaseOps shards with fused markers (runtime/text/fused_markers.py), as #2109 made them from the shards of #1855.

Every shard is fused by itself, so a blank at the end of one shard and the operator at the start of the next stay two tokens, which decode
to the same text. Every shard is turned back and compared before it counts, and the bytes of the split must be those of the published
sidecar.
"""

from pathlib import Path

import numpy as np

from stages.lib.node import files
from stages.lib.text import accounting, corpus
from stages.runtime.text.tokenizer import Tokenizer
from stages.runtime.tokens import shards


def fuse(documents: Path, folder: Path, split: str, tokenizer: Tokenizer) -> dict:
    """Write the shards of the prepared split `documents` with fused markers into `folder`, and their sidecars if there are any. Returns
    tokens, bytes and counts for meta.json. ValueError naming the shard that cannot be turned back."""
    prepared, markers = corpus.facts(documents), tokenizer.fused_markers
    tokens, pieces, num_bytes = 0, 0, 0
    for path in shards.token_paths(documents, split):
        ids, sidecar = np.array(shards.read(path)), path.with_name("_bytes_".join(path.name.rsplit("_", 1)))
        counts = [np.array(shards.read(sidecar))] if sidecar.is_file() else []
        fused, *counts = markers.fuse(ids, *counts)
        if not np.array_equal(markers.separate(fused), ids):
            raise ValueError(
                f"{path} has an ESC in front of a byte below 3, which no CaseOps text gives, so its markers cannot be fused; "
                "set vocabulary.transform to caseops"
            )
        for name, values in ((path.name, fused), (sidecar.name, *counts))[: 1 + len(counts)]:
            with files.atomic(folder / name) as partial:
                shards.write(partial, values)
        tokens += len(fused)
        pieces += int(accounting.piece_counts(tokenizer, fused).sum())
        num_bytes += sum(int(values.sum(dtype=np.int64)) for values in counts)
    if split != "train" and num_bytes != prepared["bytes"]:
        raise ValueError(f"{documents} has {prepared['bytes']:,} bytes and its sidecars {num_bytes:,}; run: dvc repro prepare")
    known = prepared.get("counts")
    counts = {"text": known["text"], "sidecar": num_bytes, "pieces": pieces} if known else None
    return {"tokens": tokens, "bytes": prepared["bytes"], "counts": counts}
