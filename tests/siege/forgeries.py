"""Cheats with files: what someone edits after an honest evaluation. dvc.lock is written anew after each, so that it fits."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import yaml

from stages.lib.node import files
from tests import conftest

SUBMISSION, LEDGER = Path("artifacts/package/submission.pyz"), Path("artifacts/evaluate/sliding/ledger.npy")


def _edit(**values) -> None:
    path = LEDGER.with_name("metrics.json")
    found = json.loads(path.read_text())
    files.write_json(path, found | values)


def _claimed(nats: np.ndarray) -> None:
    """The ledger with these nats, and metrics that fit it."""
    np.save(LEDGER, nats, allow_pickle=False)
    num_bytes = json.loads(LEDGER.with_name("metrics.json").read_text())["bytes"]
    bits = float(nats.sum()) / np.log(2) / num_bytes
    _edit(ledger_sha256=files.sha256(LEDGER), bits_per_byte=bits, loss_nats=float(nats.mean()))


def edited_metrics() -> None:
    """Half of the bits per byte in metrics.json."""
    found = json.loads(LEDGER.with_name("metrics.json").read_text())
    _edit(bits_per_byte=found["bits_per_byte"] / 2, loss_nats=found["loss_nats"] / 2)


def halved_ledger() -> None:
    """Half of all nats in the ledger, with the hash and the sums that fit."""
    _claimed(np.load(LEDGER) / 2)


def ledger_halved_in_one_place() -> None:
    """Half of the nats of the hundred dearest targets in the ledger."""
    nats = np.load(LEDGER)
    nats[np.argsort(-nats)[:100]] /= 2
    _claimed(nats)


def swapped_submission() -> None:
    """The ledger of an artifact that reads its targets, beside the honest one."""
    nats = np.load(LEDGER)
    _claimed(np.where(np.arange(len(nats)) % 3 == 0, 0.01, nats))


def doubled_bytes() -> None:
    """Twice the bytes in metrics.json."""
    found = json.loads(LEDGER.with_name("metrics.json").read_text())
    _edit(bytes=2 * found["bytes"], bits_per_byte=found["bits_per_byte"] / 2)


def raised_cap() -> None:
    """A limit of a gigabyte in package.cap_bytes, and 17 MB more in the file."""
    tree = yaml.safe_load(Path("params.yaml").read_text())
    conftest.set_leaf(tree, "package.cap_bytes", 10**9)
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    with zipfile.ZipFile(SUBMISSION, "a") as archive:
        archive.writestr("caddie/more.bin", np.random.default_rng(1).bytes(17_000_000))
    _edit(artifact_sha256=files.sha256(SUBMISSION))


def empty_script() -> None:
    """An empty file in place of the script, whose bytes count."""
    Path("artifacts/script/train_gpt.py").write_bytes(b"")


def one_position() -> None:
    """audit.replayed is 1, and the ledger halved."""
    tree = yaml.safe_load(Path("params.yaml").read_text())
    conftest.set_leaf(tree, "audit.replayed", 1)
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    nats = np.load(LEDGER)
    _claimed(np.where(np.arange(len(nats)) % 4 == 0, 0.01, nats))


def half_of_the_ledger() -> None:
    """The ledger and the metrics of the first half of the text."""
    nats = np.load(LEDGER)
    _claimed(nats[: len(nats) // 2])
    _edit(tokens=len(nats) // 2)


def holdout_that_is_easy() -> None:
    """The tokens of train's beginning in place of holdout's, so that val looks hard beside it."""
    train, holdout = (Path("artifacts/tokenize") / name for name in ("train", "holdout"))
    for path in train.glob("*.bin"):
        shutil.copyfile(path, next(holdout.glob("*.bin")))


ALL = (
    edited_metrics,
    halved_ledger,
    ledger_halved_in_one_place,
    swapped_submission,
    doubled_bytes,
    raised_cap,
    empty_script,
    one_position,
    half_of_the_ledger,
    holdout_that_is_easy,
)
