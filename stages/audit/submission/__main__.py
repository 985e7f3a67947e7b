"""Audit published submission folders from their files: sizes, bytes, seeds, times, and what the code says. Nothing in them is executed.

    python -m stages.audit.submission records/track_10min_16mb/2026-04-01_Name             one folder, in full
    python -m stages.audit.submission records/track_10min_16mb/*/ --csv audit.csv          a table over many
    python -m stages.audit.submission FOLDER --record 1.0810                               with the test over seeds against a record
    python -m stages.audit.submission FOLDER --pr 1855 --comment                           a comment for its pull request, in Markdown

Three answers: what is proved from the files, what code and logs suggest, what the organizers decided (docs/reading-submissions.md). Exit
code 0: nothing is proved against any folder; 1: at least one is not legal; 2: wrong options; 3: a folder could not be read.
"""

import argparse
import json
import sys
from pathlib import Path

from stages.audit.submission import document, fence, output
from stages.audit.submission.contents import printable
from stages.audit.submission.folder import audit
from stages.lib.node import command, files

NOT_LEGAL, NOT_READ = 1, 3
CPU_SECONDS, CPU_SECONDS_WITHOUT_CODE = 3, 2  # together at most 5
TABLES = {"csv": output.table_csv, "markdown": output.table_markdown, "html": output.table_html}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.audit.submission", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--record", type=float, metavar="BPB", help="bits per byte of the record to beat by 0.005 nats per token")
    parser.add_argument(
        "--pr", type=int, metavar="NUMBER", help="the folder's pull request, for what was decided about it; one folder only"
    )
    parser.add_argument("--comment", action="store_true", help="print a comment in Markdown instead of plain text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, as a list of objects; - prints it instead")
    for name in TABLES:
        parser.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"write the table there as {name.title() if name == 'markdown' else name.upper()}"
        )
    chosen = parser.parse_args(argv)
    if chosen.pr is not None and len(chosen.folders) > 1:
        parser.error("--pr names the pull request of one folder; audit the folders one by one")
    with command.sentences("audit.submission"):
        for name in ("json", *TABLES):
            if (path := getattr(chosen, name)) and str(path) != "-":
                files.check_writable(path, f"--{name}", is_file=True)
        found, refused = [], []
        for folder in chosen.folders:
            result, why = audited(folder, record=chosen.record, pull_request=chosen.pr)
            if result is not None:
                found.append(result)
            if why:
                name = printable(str(folder), 200)
                refused.append(printable(why, 600) if why.startswith(name) else f"{name}: {printable(why, 600)}")
        _print(chosen, found)
        for sentence in refused:
            print(f"not read: {sentence}", file=sys.stderr)
        for name, written in TABLES.items():
            if (path := getattr(chosen, name)) and found:
                _write(path, written(found))
        if chosen.json and str(chosen.json) != "-":
            _write(chosen.json, json.dumps(found, indent=1) + "\n")
    if any(result["verdict"] == "not legal" for result in found):
        return NOT_LEGAL
    return NOT_READ if refused else 0


def audited(folder: Path, *, record: float | None = None, pull_request: int | None = None) -> tuple[dict | None, str]:
    """The audit of one folder behind the fence, and why it, or a part of it, could not be read."""

    def step(code: bool):
        return lambda: document.of(audit(folder, record=record, pull_request=pull_request, code=code), complete=code)

    result, why = fence.run(step(True), CPU_SECONDS)
    if result is None and why.startswith("it was stopped"):
        result, again = fence.run(step(False), CPU_SECONDS_WITHOUT_CODE)
        why = f"its code was not read: {why}" if result is not None else again or why
    return result, why


def _print(chosen: argparse.Namespace, found: list[dict]) -> None:
    if chosen.json and str(chosen.json) == "-":
        print(json.dumps(found, indent=1))
    elif chosen.comment:
        print("\n".join(output.comment(result) for result in found), end="")
    elif len(found) == 1 and len(chosen.folders) == 1:
        print(output.text(found[0]))
    elif found:
        print(output.table_text(found))


def _write(path: Path, text: str) -> None:
    with files.atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
