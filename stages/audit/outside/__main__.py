"""Evaluate and certify any program that speaks the protocol of docs/protocol.md, wherever it was built (docs/outside.md).

    python -m stages.audit.outside "python folder" --tokens DIR --text val.jsonl --out certificate
    python -m stages.audit.outside "perl script.pl" --tokens DIR --tokenizer tokenizer.model --out certificate

The command names the one file or folder that ships; all of its bytes count. It is started in a jail that shows this, its interpreter and
the libraries that our own artifacts see. DIR holds shards: *_val_*.bin and, for a comparison with text that nobody scored, *_holdout_*.bin
and *_train_*.bin. Where the program comes from is never ruled on, so no verdict is "legal"; the certificate says what the score is at most.
Exit code 1 if a check fails.
"""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

import numpy as np

from stages.audit import __main__ as audit
from stages.audit.evidence import AuditSettings, Evidence
from stages.audit.outside import claim, text
from stages.lib.node import command, files, params
from stages.lib.node.params import require
from stages.lib.referee import jail, programs
from stages.lib.tokens import splits

MOST_BITS = 1e6  # per byte; no score, and still a number that can be divided by
KEPT = (claim.LEDGER, claim.METRICS)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.audit.outside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", help="how the program is started, in quotes")
    parser.add_argument("--tokens", type=Path, required=True, metavar="DIR", help="folder of token shards")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="what made the tokens (default: DIR/tokenizer.model)")
    parser.add_argument("--text", type=Path, metavar="FILE", help='the documents of val, one {"text": ...} a line')
    parser.add_argument("--ships", type=Path, metavar="PATH", help="what ships, if the command names only a part of it")
    parser.add_argument("--bits-per-byte", metavar="SCORE", help="the score that its author states")
    parser.add_argument(
        "--evaluator", default="outside", metavar="NAME", help="what the program is told to score with (default: %(default)s)"
    )
    parser.add_argument("--options", default="{}", metavar="JSON", help="options that it is told; they count")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="sizes of the audit (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the certificate goes")
    chosen = parser.parse_args(argv)
    with command.sentences("audit.outside"):
        written = certified(chosen, params.section(params.read(chosen.params), AuditSettings))
        most = written["at_most_bits_per_byte"]
        said = "no limit is certified" if most is None else f"at most {most:.4f} with {written['confidence']:.0%} confidence"
        print(f"{written['bits_per_byte']:.4f} bits per byte claimed, {said}: {chosen.out / 'certificate.html'}")
    return int(written["verdict"] == "not legal")


def certified(chosen: argparse.Namespace, settings: AuditSettings) -> dict:
    """Claim and audit; everything appears under chosen.out at the end. Returns the certificate."""
    options, stated = _options(chosen.options), chosen.bits_per_byte
    is_score = stated is None or (stated.replace(".", "", 1).isdecimal() and float(stated) <= MOST_BITS)
    require(is_score, f"--bits-per-byte takes a number such as 1.0810, not {(stated or '')[:40]!r}")
    files.check_writable(chosen.out, "--out")
    program = programs.given(chosen.command, ships=chosen.ships, python=jail.interpreter())
    tokenizer = chosen.tokenizer or chosen.tokens / "tokenizer.model"
    for path in filter(None, (chosen.tokens, chosen.text, tokenizer)):
        inside = path.resolve().is_relative_to(program.ships) or program.ships.is_relative_to(path.resolve())
        require(not inside, f"{path} and {program.ships} lie in each other, and what ships is shown to the program; keep them apart")
    ours = not chosen.out.exists() or (chosen.out / "certificate.json").is_file()
    require(ours, f"--out {chosen.out} exists and has no certificate; name another folder")
    with tempfile.TemporaryDirectory(prefix="caddie-outside-") as folder, files.atomic(chosen.out) as out:
        root = Path(folder)
        text.lay_out(root, tokens=chosen.tokens, tokenizer=tokenizer, text=chosen.text)
        metrics = claim.ask(root, program, chosen.evaluator, options, stated)
        made = {name: root / "tokenize" / name for name in ("train", "holdout") if (root / "tokenize" / name).is_dir()}
        evidence = Evidence(
            submission=program,
            documents=root / "prepare/val",
            text=splits.read(root / "tokenize/val", "val", sidecar=True),
            nats=np.load(root / claim.LEDGER, allow_pickle=False),
            metrics=metrics,
            evaluator=chosen.evaluator,
            options=options,
            lock=root / "dvc.lock",
            settings=settings,
            script=root / "train_gpt.py",
            drawn=tuple(secrets.randbits(32) for _ in range(4)),
            package=None,
            train=made.get("train"),
            holdout=made.get("holdout"),
            making={},
            given_tokenizer=tokenizer.read_bytes(),
        )
        written = audit.ruled(program.ships.name, evidence)
        out.mkdir()
        audit.write(written, *(out / f"certificate.{kind}" for kind in ("json", "html", "md")))
        for name in KEPT:
            files.link_file(root / name, out / name)
    return written


def _options(text: str) -> dict:
    try:
        found = files.json_of_others(text)
    except ValueError as error:
        raise ValueError(f"--options {text[:40]!r} is no JSON that can be told to a program ({str(error)[:200]}); correct it") from None
    require(isinstance(found, dict), f"--options takes a JSON object such as {{}}, not {text[:40]!r}")
    return found


if __name__ == "__main__":
    sys.exit(main())
