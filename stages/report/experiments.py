"""One table of all experiments of this commit, narrow enough for a terminal, and its figure: what differs, seed, score, bytes, verdict.

    python -m stages.report --experiments          of the last commit; with --all-commits: of all

The rows are those of `dvc exp show`. `differs` lists the parameters that differ from the commit that an experiment started from; those
that fewer other experiments share come first, so that the value that was swept is seen. `artifacts/report/experiments/` has the same
table with every difference in full, and a figure of it.
"""

import argparse
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd

from stages.lib.node import command, files
from stages.report import figures
from stages.report.table_columns import ABSENT, NUMBERS, Column, cell

COLUMNS = (
    Column("name", "name"),
    Column("differs", "differs"),
    Column("seed", "seed"),
    Column("score", "score", "score"),
    Column("bytes", "bytes", "count"),
    Column("verdict", "verdict"),
)
SUMMARY, PARAMS = "artifacts/report/metrics.json", "params.yaml"
SEED = "train.seed"
NAME_WIDTH, VERDICT_WIDTH = 26, 24


def run(argv: list[str]) -> None:
    """Run the command line: print the table, and write it with its figure."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", action="store_true", required=True, help="the table of experiments")
    parser.add_argument("--all-commits", action="store_true", help="also those that started from other commits")
    parser.add_argument(
        "--folder", type=Path, default=Path("artifacts/report/experiments"), help="where table and figure go (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    with command.sentences("report"):
        files.check_writable(arguments.folder, "--folder")
        print(write(table(shown(arguments.all_commits)), arguments.folder, width=shutil.get_terminal_size((120, 24)).columns), end="")


def shown(all_commits: bool) -> list[dict]:
    """What `dvc exp show --json` says. ValueError with DVC's own sentence if it fails, as in a folder without git."""
    done = subprocess.run(["dvc", "exp", "show", "--json", *["--all-commits"] * all_commits], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"dvc exp show failed: {' '.join((done.stderr or done.stdout).split())}")
    return json.loads(done.stdout)


def table(revisions: list[dict]) -> pd.DataFrame:
    """One row for the workspace, for each commit and for each experiment, in DVC's order; `differs` is a tuple of `parameter=value`."""
    rows, before = [], _params(revisions[1]) if len(revisions) > 1 else {}
    for revision in revisions:
        is_workspace = revision["rev"] == "workspace"
        rows.append(_row(revision, before if is_workspace else _params(revision)))
        for experiment in revision["experiments"] or []:
            state = (experiment["executor"] or {}).get("state")
            rows.append(_row(experiment["revs"][0], _params(revision), state=state))
    common = Counter(item for row in rows for item in row["differs"])
    for row in rows:
        row["differs"] = tuple(sorted(row["differs"], key=lambda item: common[item]))  # of equal ones the order of params.yaml stays
    found = pd.DataFrame(rows, columns=[column.key for column in COLUMNS], dtype=object)
    return found.where(found.notna(), None)


def write(found: pd.DataFrame, folder: Path, *, width: int) -> str:
    """Write `folder`: table.csv, and score and bytes of all rows that have them as scores.svg. Returns the table for the terminal."""
    scored = found[found["score"].notna()]
    with files.atomic(folder) as partial:
        partial.mkdir()
        found.assign(differs=found["differs"].map("; ".join)).to_csv(partial / "table.csv", index=False, lineterminator="\n")
        if len(scored):
            drawn = scored.assign(label=[row.differs[0] if row.differs else row.name for row in scored.itertuples(index=False)])
            figure = figures.draw("experiments", drawn[["label", "score", "bytes"]], folder=Path(__file__).parent / "templates")
            (partial / "scores.svg").write_text(figure.svg, encoding="utf-8")
    text = printed(found, width)
    return text + (f"The same as a figure: {folder / 'scores.svg'}; with every difference: {folder / 'table.csv'}\n" if len(scored) else "")


def printed(found: pd.DataFrame, width: int) -> str:
    """The table in lines of at most `width` characters. What does not fit of `differs` is counted."""
    texts = {column.key: [cell(value, column.kind) for value in found[column.key]] for column in COLUMNS if column.key != "differs"}
    texts["name"] = [_cut(text, NAME_WIDTH) for text in texts["name"]]
    texts["verdict"] = [_cut(text, VERDICT_WIDTH) for text in texts["verdict"]]
    widths = {column.key: max(map(len, [column.title, *texts[column.key]])) for column in COLUMNS if column.key in texts}
    room = max(len("differs"), width - sum(widths.values()) - 2 * (len(COLUMNS) - 1))
    texts["differs"] = [_fitting(items, room) for items in found["differs"]]
    widths["differs"] = max(map(len, ["differs", *texts["differs"]]))

    def line(cells: dict[str, str]) -> str:
        padded = []
        for column in COLUMNS:
            text, size = cells[column.key], widths[column.key]
            padded.append(text.rjust(size) if column.kind in NUMBERS else text.ljust(size))
        return "  ".join(padded).rstrip()

    lines = [line({column.key: column.title for column in COLUMNS})]
    lines += [line({key: column[i] for key, column in texts.items()}) for i in range(len(found))]
    return "\n".join(lines) + "\n"


def _row(revision: dict, before: dict, state: str | None = None) -> dict:
    now, metrics = _params(revision), ((revision["data"] or {}).get("metrics") or {}).get(SUMMARY, {}).get("data") or {}
    return {
        "name": revision["name"] or revision["rev"][:9],
        "differs": tuple(item for item in differences(before, now) if not item.startswith(f"{SEED}=")),
        "seed": str(now["train"]["seed"]) if "train" in now else None,
        "score": metrics.get("score.bits_per_byte"),
        "bytes": metrics.get("package.artifact_bytes"),
        "verdict": _verdict(metrics) if metrics else state if state and state != "success" else "no report",
    }


def _verdict(metrics: dict) -> str:
    """Whether the score counts, and by which evaluator."""
    if metrics["package.bytes_left"] < 0:
        return "over the cap"
    return f"legal, {metrics['score.evaluator']}" if metrics["score.is_valid"] else "not legal"


def _params(revision: dict) -> dict:
    return ((revision["data"] or {}).get("params") or {}).get(PARAMS, {}).get("data") or {}


def differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    """`path=value` for each leaf of `now` that is another in `before`. A mapping that has other keys is one entry that names its keys."""
    out = []
    for key, value in now.items():
        path, old = f"{prefix}{key}", before.get(key)
        if value == old and key in before:
            continue
        if isinstance(value, dict) and isinstance(old, dict) and value.keys() == old.keys():
            out += differences(old, value, f"{path}.")
        else:
            out.append(f"{path}={'+'.join(map(str, value)) if isinstance(value, dict) else json.dumps(value).strip(chr(34))}")
    return out


def _fitting(items: tuple[str, ...], room: int) -> str:
    for count in range(len(items), 0, -1):
        text = "; ".join(items[:count]) + (f"; +{len(items) - count}" if count < len(items) else "")
        if len(text) <= room:
            return text
    return _cut(items[0], room) if items else ABSENT


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"
