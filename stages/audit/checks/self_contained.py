"""T14: the score needs the counted file and nothing else.

Every session, that of the score too, runs the artifact in a jail with an empty folder (stages/lib/referee/jail.py). Only in the strongest
form of the jail can an artifact that lies find nothing; in another form this check is not ruled, and says what to install. Script and blob
are counted in decimal bytes (stages/lib/blob/counted.py). If the programs in the file that runs are larger than the script, they count in
its place, so nothing that runs goes uncounted; so do options that are not the packed ones. Of a program that was built elsewhere every file
that ships counts with its name, and its options. What ships must be the same after the runs as before.
"""

import json

from stages.audit.evidence import Evidence, Verdict, is_built_elsewhere
from stages.lib.blob import counted, quantized_model
from stages.lib.referee import archive, artifact, jail, programs

PROVES = (
    "Against anyone: the artifact scores from an empty folder, without network and without any file but itself; script and model have at "
    "most 16,000,000 bytes."
)
CANNOT_SEE = (
    "What the installed libraries hold beside code, faults of the kernel, and bits that one session leaves another in the names that the "
    "kernel remembers of `shared_folders`."
)
PRECEDENT = "README: 16,000,000 decimal bytes of code and model, no network at evaluation; over-cap rows excluded (#1902, 29 Apr 2026)"
MIB_BYTES = 16 * 2**20


def check(evidence: Evidence) -> Verdict:
    program = programs.of(evidence.submission)
    if is_built_elsewhere(evidence):
        entries, outside, missing, size = dict(program.entries()), [], False, program.num_bytes()
        options = len(json.dumps(evidence.options)) if evidence.options else 0
        counts = counted.Artifact(size + options, 0, 0, counted.CAP_BYTES)
    else:
        with archive.opened(evidence.submission) as file:
            entries = {entry.filename: entry.compress_size for entry in file.infolist()}
            outside = [name for name in entries if name.startswith("/") or ".." in name.split("/")]
        missing, size = not evidence.script.is_file(), evidence.submission.stat().st_size
        counts = _counted(evidence, entries)
    jailed = jail.form() == evidence.metrics["jail"] == "bubblewrap"
    same = program.sha256() == evidence.metrics["artifact_sha256"]
    facts = {
        "artifact_bytes": counts.total_bytes,
        "code_bytes": counts.code_bytes,
        "model_bytes": counts.model_bytes,
        "memory_bytes": counts.memory_bytes,
        "cap_bytes": counts.cap_bytes,
        "over_cap_bytes": counts.over_cap_bytes,
        "pyz_bytes": size,
        "entries": len(entries),
        "jail": jail.form(),
        "shared_folders": jail.shared_folders() if jail.form() == "bubblewrap" else [],
        "jail_of_the_score": evidence.metrics["jail"],
        "outside": outside,
        "unchanged_after_the_runs": same,
    }
    if counts.over_cap_bytes:
        facts["reason"] = _over(evidence, counts) + (
            "; it would fit into 16 MiB, but MB are decimal here" if counts.cap_bytes < counts.total_bytes <= MIB_BYTES else ""
        )
    elif missing:
        facts["reason"] = f"{evidence.script} is missing, so what the script counts is not known; run: dvc repro script"
    elif not jailed:
        facts["reason"] = "it did not run in a full jail, where an artifact that lies can find nothing; install bubblewrap: make setup"
    passed = not counts.over_cap_bytes and not outside and same
    return Verdict(
        "fail" if not passed else "not_applicable" if missing or not jailed else "pass",
        facts,
        positions=len(entries),
        largest_deviation=float(counts.over_cap_bytes),
    )


def _over(evidence: Evidence, counts: counted.Artifact) -> str:
    if is_built_elsewhere(evidence):
        return f"what it ships has {counts.total_bytes:,} bytes, {counts.over_cap_bytes:,} over the cap of {counts.cap_bytes:,}"
    return counts.sentence(quantized_model.num_weights(artifact.read(evidence.submission, "model.blob")))


def _counted(evidence: Evidence, entries: dict[str, int]) -> counted.Artifact:
    """What counts: weights and text in the file, and script or programs in the file, whichever is larger. No cap above the contest's."""
    model, memory, tokenizer = (entries.get(f"caddie/data/{name}", 0) for name in ("model.blob", "memory.bin", "tokenizer.model"))
    packed_code = evidence.submission.stat().st_size - model - memory - tokenizer
    packed = artifact.manifest(evidence.submission)
    of_others = packed.get("other_options")  # those of the other evaluators in the file, in whose size they are
    in_file = [packed.get("options"), *(of_others.values() if isinstance(of_others, dict) else ())]
    others = 0 if evidence.options in in_file else len(json.dumps(evidence.options))
    cap = min(counted.CAP_BYTES, evidence.package.cap_bytes)
    script = evidence.script.stat().st_size if evidence.script.is_file() else 0
    return counted.Artifact(max(script, packed_code) + others, model, memory, cap)
