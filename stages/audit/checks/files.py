"""T18: what is audited is what the stages wrote, back to the documents, by hashes that are taken anew.

Nothing is believed because a file says so. The MD5 of every output of every stage above the artifact and above the three splits is taken
again, as far as the output is on this machine, and compared with dvc.lock. The tokenizer in the artifact must be the one of the pipeline,
and the text in it, if there is any, must be the end of train. documents.jsonl of each split must have the sha256, the documents and the
bytes that its facts name. Its tokens and bytes per token are made again from the documents with the artifact's tokenizer: all of val and
holdout, and the first REDERIVED_BYTES of train. Published token shards come without documents; their ids are hashed instead, with markers
apart that tokenize fused. No more than 5 % of the documents of val may stand in holdout.
"""

import hashlib
from pathlib import Path

import numpy as np

from stages.audit import graph
from stages.audit.evidence import Evidence, Verdict, is_built_elsewhere
from stages.lib.dvc import dvc_lock
from stages.lib.node import files
from stages.lib.referee import artifact
from stages.lib.text import accounting, corpus
from stages.lib.text.encoder import Encoder
from stages.lib.tokens import splits
from stages.runtime.text import memory
from stages.runtime.text.tokenizer import BOS

PROVES = (
    "Against edited files: the artifact, its tokenizer and the files that it was made from and is scored on are those that dvc.lock names, "
    "and the tokens of val and holdout, and the first of train, are what this tokenizer makes of the documents."
)
CANNOT_SEE = (
    "Outputs that are no longer on this machine, which are listed; a dvc.lock that was written by hand together with files that fit it; "
    "whether a text of one's own is what it is said to be."
)
PRECEDENT = "Issue #2127 (a val split other than the contest's), README of the contest: reproducible from the code that is handed in"
ARTIFACT, TOKENIZER = "artifacts/package/submission.pyz", "artifacts/vocabulary/tokenizer.model"
REDERIVED_BYTES = 4_000_000  # of train: half a second
SPLITS, SHARED = ("train", "holdout", "val"), 0.05  # of the documents of val


def check(evidence: Evidence) -> Verdict:
    if is_built_elsewhere(evidence) or not evidence.lock.is_file():
        why = "built elsewhere" if is_built_elsewhere(evidence) else f"{evidence.lock.name} is missing"
        return Verdict("not_applicable", {"reason": f"{why}: no file can be compared with what its stage wrote"})
    stages, model = dvc_lock.read(evidence.lock), artifact.read(evidence.submission, "tokenizer.model")
    facts, findings = hashed(stages, _places(evidence), model, root=evidence.lock.parent)
    if text := artifact.read(evidence.submission, "memory.bin"):
        shipped, train = memory.unpack(text), splits.read(evidence.train, "train").tokens
        if not np.array_equal(shipped, train[max(0, len(train) - len(shipped)) :]):
            findings.append("the text that ships for the evaluator memory is not the end of train")
    encoder = Encoder(model)
    facts["text"], documents = {}, {}
    for name in SPLITS:
        prepared, tokenized = evidence.documents.with_name(name), _tokenized(evidence)[name]
        facts["text"][name], documents[name], wrong = compared(name, prepared, tokenized, encoder)
        findings += wrong
    shared = len(documents["val"] & documents["holdout"])
    facts["val_documents_in_holdout"] = shared
    if shared > SHARED * max(1, len(documents["val"])):
        findings.append(f"{shared} of {len(documents['val'])} documents of val stand in holdout")
    if findings:
        return Verdict("fail", facts | {"reason": "; ".join(findings)}, positions=facts["files_hashed"])
    if other := another_text(stages, facts["text"]):
        return Verdict("not_applicable", facts | {"reason": other}, positions=facts["files_hashed"])
    return Verdict("pass", facts, positions=facts["files_hashed"])


def _tokenized(evidence: Evidence) -> dict[str, Path]:
    return {"train": evidence.train, "holdout": evidence.holdout, "val": Path(evidence.tokens.name)}


def _places(evidence: Evidence) -> dict[str, Path]:
    """What the audit reads, by the path under which dvc.lock knows it."""
    prepared = {f"artifacts/prepare/{name}": evidence.documents.with_name(name) for name in SPLITS}
    return {ARTIFACT: evidence.submission} | prepared | {f"artifacts/tokenize/{name}": path for name, path in _tokenized(evidence).items()}


def hashed(stages: dict, places: dict[str, Path], model: bytes, *, root: Path) -> tuple[dict, list[str]]:
    """Facts, and one sentence for each file that differs from dvc.lock. `places`: the files that must be there, by their path in the lock;
    other outputs of the stages above them are looked for under `root`. `model`: the tokenizer of the artifact."""
    names = graph.above(stages, list(places))
    recorded = {out["path"]: out.get("md5") for name in names for out in stages[name].get("outs", [])}
    findings = [f"no stage of dvc.lock made {path}" for path in places if path not in recorded]
    count, absent = 0, []
    for path, md5 in sorted(recorded.items()):
        place = places.get(path, root / path)
        if not place.exists():
            absent.append(path)
            continue
        count += 1
        if graph.md5(place) != md5:
            findings.append(f"{place} is not what its stage wrote (MD5 differs from dvc.lock)")
    findings += [f"{path} is missing" for path in absent if path in places]
    if hashlib.md5(model).hexdigest() != recorded.get(TOKENIZER):
        findings.append(f"the tokenizer in the artifact is not {TOKENIZER} of dvc.lock")
    return {"files_hashed": count, "not_on_this_machine": absent}, findings


def compared(name: str, prepared: Path, tokenized: Path, encoder: Encoder) -> tuple[dict, set[bytes], list[str]]:
    """One split from its documents up: facts, a hash of each document of val and holdout, and one sentence for each difference."""
    if not (prepared / corpus.META).is_file():
        return {}, set(), [f"{prepared} is missing, from which the tokens of {name} were made; run: dvc checkout"]
    meta, split = corpus.facts(prepared), splits.read(tokenized, name, sidecar=name != "train")
    facts, known, findings = {"sha256": meta["sha256"]}, set(), []
    if (meta["split"], split.facts["split"]) != (name, name):
        findings.append(f"{prepared} and {tokenized} call themselves {meta['split']} and {split.facts['split']}, not {name}")
    if split.text_sha256 != meta["sha256"] or split.facts["tokenizer_sha256"] != encoder.tokenizer.sha256:
        findings.append(f"{tokenized} was made from another text or by another tokenizer")
    if meta["contents"] == "tokens":
        markers = encoder.tokenizer.fused_markers if meta["tokenizer_sha256"] != encoder.tokenizer.sha256 else None
        digest = hashlib.sha256()
        for shard in split.tokens.shards:
            digest.update(np.ascontiguousarray(markers.separate(np.array(shard)) if markers else shard, "<u2").data)
            if name != "train":
                known |= {hashlib.sha256(part.tobytes()).digest() for part in np.split(shard, np.flatnonzero(shard == BOS))[1:]}
        if digest.hexdigest() != meta["sha256"]:
            findings.append(f"the ids in {tokenized} are not the published ones (sha256 differs)")
        return facts, known, findings
    if files.sha256(prepared / corpus.DOCUMENTS) != meta["sha256"]:
        findings.append(f"{prepared / corpus.DOCUMENTS} is not what its facts name (sha256 differs)")
    position = documents = num_bytes = 0
    is_whole = True
    for start, end in corpus.chunks(prepared):
        texts = list(corpus.read_chunk(prepared, start, end))
        made = encoder.encode(texts, sidecar=split.byte_counts is not None)
        part = slice(position, position + len(made.ids))
        counts = made.byte_counts if split.byte_counts is not None else None
        if not np.array_equal(split.tokens[part], made.ids) or (counts is not None and not np.array_equal(split.byte_counts[part], counts)):
            findings.append(f"the tokens of {tokenized} are not those of the documents, from document {documents} on at the latest")
            return facts, known, findings
        position, documents, num_bytes = part.stop, documents + len(texts), num_bytes + int(made.raw_bytes.sum())
        if name != "train":
            known |= {hashlib.sha256(text.encode()).digest() for text in texts}
        elif num_bytes >= REDERIVED_BYTES:
            is_whole = end >= (prepared / corpus.DOCUMENTS).stat().st_size
            break
    facts |= {"documents_encoded_again": documents, "bytes_encoded_again": num_bytes}
    if is_whole and (position, documents, num_bytes) != (len(split.tokens), meta["documents"], meta["bytes"]):
        findings.append(f"{prepared} has {documents} documents and {num_bytes} bytes, not {meta['documents']} and {meta['bytes']}")
    return facts, known, findings


def another_text(stages: dict, text: dict[str, dict]) -> str | None:
    """Why the text is not the built-in one of this revision, although the parameters in dvc.lock ask for it; else None."""
    settings = stages.get(dvc_lock.ROOT_STAGE, {}).get("params", {}).get("params.yaml", {}).get("prepare", {})
    limit = settings.get("max_bytes")
    if settings.get("source") != "builtin" or (limit is not None and limit < accounting.BUILTIN_BYTES):
        return None
    other = [name for name in SPLITS if text[name]["sha256"] != accounting.BUILTIN_SHA256[name]]
    return f"the built-in text of this revision has another {', '.join(other)}: the list of packages has changed since" if other else None
