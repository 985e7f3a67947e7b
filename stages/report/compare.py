"""Compare experiments: the summaries and parameters of git revisions and DVC experiments, as tables and one page.

    python -m stages.report --compare main 3f2c1ab swift-bogy workspace
    python -m stages.report --compare main workspace --equal seconds       losses where both had the same steps, seconds or tokens

A revision is any name that git or DVC knows; `workspace` stands for the files in this folder. All data comes from files that the
revision's own run wrote: metrics and loss curve by their hashes from DVC's cache, params.yaml from git. Nothing is computed again. A commit
without dvc.lock has the results of an experiment that ran it unchanged; `make repro` saves one, named `repro`.
"""

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from stages.lib import page
from stages.lib.dvc.revisions import resolved, with_results
from stages.lib.node import command, files, params
from stages.report import figures
from stages.report.figures import SERIES, Figure
from stages.report.table_columns import Column, cell, markdown, shown

TEMPLATE = Path(__file__).parent / "templates/compare.html.j2"
WORKSPACE, PREFIX = "workspace", "bits_per_byte."
SUMMARY, PARAMS, LOSS = "artifacts/report/metrics.json", "params.yaml", "artifacts/train/loss.csv"
OVERVIEW = (
    ("score.bits_per_byte", "score, bits per byte", "score"),
    ("score.evaluator", "evaluator", "text"),
    ("score.is_valid", "valid", "text"),
    ("package.artifact_bytes", "artifact, bytes", "count"),
    ("package.bytes_left", "bytes left", "count"),
    ("package.code_bytes", "script, bytes", "count"),
    ("package.pyz_bytes", "submission.pyz, bytes", "count"),
    ("package.compress_run", "codec that ships", "text"),
    ("train.parameters", "parameters", "count"),
    ("train.steps", "steps", "count"),
    ("train.train_seconds", "training, seconds", "seconds"),
    ("train.holdout_bits_per_byte", "holdout, bits per byte", "score"),
    ("train.seed", "seed", "text"),
    ("train.device", "device", "text"),
    ("text.sha256.val", "sha256 of the val text", "digest"),
)
TITLES = {
    "overview": "Overview",
    "equal": "Losses at equal {}, and the difference to the first",
    "scores": "Bits per byte, and the difference to the first",
    "bytes": "Bytes by codec, and the difference to the first",
    "seconds": "Seconds of each evaluator",
    "params": "Parameters that differ",
}


UNITS = {"steps": "step", "seconds": "seconds of training", "tokens": "tokens of training"}
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # of the shortest run, at which losses are compared
SMOOTHED = 20  # steps of a mean of the train loss, as train's own metrics have it


@dataclass(frozen=True)
class Experiment:
    """The data of one revision. `metrics` is the flat summary; `params` are flat too."""

    name: str
    metrics: dict
    params: dict
    loss: pd.DataFrame


def run(argv: list[str]) -> None:
    """Run the command line: read the revisions, print the tables, write the page and the CSV files."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", nargs="+", metavar="REV", required=True, help="commits, branches, DVC experiments, workspace")
    parser.add_argument(
        "--folder", type=Path, default=Path("artifacts/report/compare"), help="where page and tables go (default: %(default)s)"
    )
    parser.add_argument("--equal", choices=list(UNITS), default="steps", help="losses are compared at equal ... (default: steps)")
    arguments = parser.parse_args(argv)
    with command.sentences("report"):
        files.check_writable(arguments.folder, "--folder")
        found = [read(revision, root=Path.cwd()) for revision in arguments.compare]
        print(write(found, arguments.folder, arguments.equal), end="")


def write(found: list[Experiment], folder: Path, equal: str = "steps") -> str:
    """Write `folder`: index.html and one CSV file for each table. Returns the tables for the terminal."""
    if len(found) < 2 or len(found) > len(SERIES) or len({one.name for one in found}) < len(found):
        raise ValueError(f"--compare takes 2 to {len(SERIES)} different revisions, not {', '.join(one.name for one in found)}")
    whole = tables(found, equal)
    texts, titles = {name: written(table) for name, table in whole.items()}, {name: title.format(equal) for name, title in TITLES.items()}
    warnings = warn(found)
    with files.atomic(folder) as partial:
        partial.mkdir()
        for name, table in whole.items():
            table.rename(columns={f"r{i}": one.name for i, one in enumerate(found)}).drop(columns="kind").to_csv(
                partial / f"{name}.csv", index=False, lineterminator="\n"
            )
        (partial / "index.html").write_text(render(found, texts, warnings, titles, equal), encoding="utf-8")
    columns = _columns(found)
    blocks = [f"**{sentence}**" for sentence in warnings]
    blocks += [f"## {titles[name]}\n\n{markdown(table, columns)}" for name, table in texts.items() if len(table)]
    return "\n\n".join([*blocks, f"The same with figures: {folder / 'index.html'}"]) + "\n"


def read(revision: str, *, root: Path) -> Experiment:
    """Read the files of one revision. ValueError if git and DVC do not know it, or if it has no report."""

    def content(path: str, maker: str) -> str:
        if revision == WORKSPACE:
            if not (root / path).is_file():
                raise ValueError(f"{path} is missing; run: dvc repro {maker}")
            return (root / path).read_text(encoding="utf-8")
        return _at(revision, path, root)

    summary = content(SUMMARY, "report")
    try:
        metrics = json.loads(summary)
    except json.JSONDecodeError as error:
        raise ValueError(f"{SUMMARY} of {revision} is not valid JSON ({error}); run that revision again") from None
    if absent := [key for key, _, _ in OVERVIEW if key not in metrics]:
        raise ValueError(
            f"{SUMMARY} of {revision} has no {', '.join(absent)}; it was written by other code, run that revision again: dvc repro report"
        )
    tree = yaml.load(content(PARAMS, "report"), Loader=params.Yaml12Floats)
    return Experiment(revision, metrics, flatten(tree), pd.read_csv(io.StringIO(content(LOSS, "train"))))


def _at(revision: str, path: str, root: Path) -> str:
    """A file of a revision: from git, or by its hash in dvc.lock from DVC's cache."""
    import dvc.api
    from dvc.exceptions import DvcException

    commit = with_results(resolved(revision, root=root), root=root)
    if commit is None:
        raise ValueError(
            f"{revision} has no dvc.lock, and no experiment ran it unchanged, so its results are unknown; check it out and run make repro, "
            "or commit dvc.lock together with the files that it belongs to"
        )
    try:
        with dvc.api.open(path, repo=str(root), rev=commit, mode="r", encoding="utf-8") as handle:
            return handle.read()
    except (DvcException, OSError):
        raise ValueError(
            f"{path} of {revision} is not here: that revision was not run to the end, or its results are elsewhere; try: "
            f"dvc pull --all-commits, or dvc exp run at that revision"
        ) from None


def flatten(tree: dict, prefix: str = "") -> dict:
    """The leaves of `tree` by dotted path; a list with its content is one leaf."""
    out = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def tables(found: list[Experiment], equal: str = "steps") -> dict[str, pd.DataFrame]:
    """The tables by name. Columns: `name`, one per experiment (r0, r1, …), and `kind`, the format of the row's values."""

    def rows(entries: list[tuple[str, str, str]]) -> pd.DataFrame:
        return _frame([(title, *(one.metrics.get(key) for one in found), kind) for key, title, kind in entries], found)

    def named(prefix: str, suffix: str = "") -> list[tuple[str, str]]:
        keys = dict.fromkeys(key for one in found for key in one.metrics if key.startswith(prefix) and key.endswith(suffix))
        return [(key, key.removeprefix(prefix).removesuffix(suffix)) for key in keys]

    paths = dict.fromkeys(path for one in found for path in one.params)
    differing = [path for path in paths if any(one.params.get(path, ...) != found[0].params.get(path, ...) for one in found)]
    return {
        "overview": rows(list(OVERVIEW)),
        "equal": _frame(losses(found, equal), found),
        "scores": rows(
            [(key, name, "score") for key, name in named("bits_per_byte.")]
            + [(key, f"{name}, verdict", "text") for key, name in named("verdict.")]
        ),
        "bytes": rows([(key, name, "count") for key, name in named("compress.", ".blob_bytes")]),
        "seconds": rows([(key, name, "seconds") for key, name in named("evaluate.", ".seconds")]),
        "params": _frame([(path, *(one.params.get(path) for one in found), "text") for path in differing], found),
    }


def spent(one: Experiment, equal: str) -> pd.Series:
    """What was spent after each step of the loss curve, in the unit `equal`: seconds at the run's average pace, tokens of whole batches."""
    if equal == "steps":
        return one.loss["step"].astype(float)
    each = one.params["train.batch_tokens"] if equal == "tokens" else one.metrics["train.train_seconds"] / one.metrics["train.steps"]
    return one.loss["step"] * each


def losses(found: list[Experiment], equal: str) -> list[tuple]:
    """Rows (name, value of each experiment, kind): the train loss, and the last measured holdout loss, at shares of the shortest run."""
    axes, rows = [spent(one, equal) for one in found], []
    shortest = min(axis.iloc[-1] for axis in axes)
    for share in SHARES:
        at, train, holdout = share * shortest, [], []
        for one, axis in zip(found, axes, strict=True):
            until = one.loss[axis <= at * (1 + 1e-9)]
            measured = until["holdout_bits_per_byte"].dropna() if "holdout_bits_per_byte" in until else ()
            train.append(float(until["train_loss"].tail(SMOOTHED).mean()) if len(until) else None)
            holdout.append(float(measured.iloc[-1]) if len(measured) else None)
        where = f"{at:,.0f} {equal}"
        rows += [(f"{where}: train loss, nats per token", *train, "score"), (f"{where}: holdout, bits per byte", *holdout, "score")]
    return rows


def _frame(rows: list, found: list[Experiment]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["name", *(f"r{i}" for i in range(len(found))), "kind"], dtype=object)
    return table.where(table.notna(), None)


def written(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text; scores and bytes are followed by their difference to the first experiment."""
    out = table.copy()
    columns = [column for column in table.columns if column not in ("name", "kind")]
    for i, kind in enumerate(table["kind"]):
        values = [table[column].iloc[i] for column in columns]
        for column, value in zip(columns, values, strict=True):
            if kind == "digest":
                out.loc[out.index[i], column] = value[:12]
                continue
            text = cell(value if kind != "text" or value is None else json.dumps(value).strip('"'), kind)
            if kind in ("score", "count") and column != columns[0] and None not in (value, values[0]) and value != values[0]:
                difference = value - values[0]
                text += f" ({difference:+,})" if kind == "count" else f" ({difference:+.4f})"
            out.loc[out.index[i], column] = text
    return out


def warn(found: list[Experiment]) -> list[str]:
    """One sentence for each thing that makes a comparison of these numbers unfair."""
    out = []
    if len({one.metrics["text.sha256.val"] for one in found}) > 1:
        out.append("These experiments were scored on different val texts: their bits per byte are not comparable.")
    if spoiled := [one.name for one in found if one.metrics["score.is_valid"] is not True]:
        out.append(f"Not valid: {', '.join(spoiled)}.")
    if len({one.metrics["train.seed"] for one in found}) == 1 and len({one.metrics["score.bits_per_byte"] for one in found}) > 1:
        out.append("One seed each: a difference as small as that between seeds means nothing.")
    return out


def render(found: list[Experiment], texts: dict[str, pd.DataFrame], warnings: list[str], titles: dict[str, str], equal: str) -> str:
    """The comparison as an HTML page."""
    return page.render(
        TEMPLATE,
        names=[one.name for one in found],
        warnings=warnings,
        figures=drawings(found, equal),
        tables={name: shown(table, _columns(found)) for name, table in texts.items()},
        titles=titles,
        sections={name: title.split(",")[0] for name, title in titles.items()},
    )


def drawings(found: list[Experiment], equal: str) -> dict[str, Figure]:
    """Two figures of the report, each with all experiments; the curves of the loss over what is `equal`."""
    scores = [
        {
            "rev": one.name,
            "name": key.removeprefix(PREFIX),
            "kind": "",
            "bits_per_byte": value,
            "before": value,
            "verdict": one.metrics.get(f"verdict.{key.removeprefix(PREFIX)}", ""),
        }
        for one in found
        for key, value in one.metrics.items()
        if key.startswith(PREFIX) and value is not None
    ]
    curves = pd.concat([one.loss.assign(rev=one.name, step=spent(one, equal)) for one in found])
    return {"scores": figures.draw("scores", pd.DataFrame(scores)), "loss": figures.draw("loss", curves, said={"step": UNITS[equal]})}


def _columns(found: list[Experiment]) -> tuple[Column, ...]:
    return (Column("name", ""), *(Column(f"r{i}", one.name) for i, one in enumerate(found)))
