"""A log that was not read is named, and the logs that were refute nothing without it. Packed logs are read, and files with several runs."""

import gzip

import pytest

from stages.audit.submission import contents
from stages.audit.submission.folder import audit
from stages.audit.submission.logs import log as logs
from tests.submission_folders import BITS, SEEDS, log, write


def said(found, verdict=None):
    return " ".join(finding.text for finding in found.findings if finding.check == "claims" and verdict in (None, finding.verdict))


def _link(path):
    (path.parent / "kept").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to("kept")


def _deep(path):
    target = path.parent.joinpath(*"abcdefghi")
    target.mkdir(parents=True)
    path.rename(target / path.name)


def _cut(path):
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(packed[: len(packed) // 2])


HIDDEN = {
    "link": (_link, "train_seed42.log (it is a link)"),
    "depth": (_deep, "train_seed42.log (it lies more than 8 folders deep)"),
    "compression": (lambda path: path.rename(f"{path}.zst"), "train_seed42.log.zst (it is compressed"),
    "cut gzip": (_cut, "train_seed42.log.gz (it is no complete gzip file)"),
    "no suffix": (lambda path: path.rename(path.with_suffix("")), "train_seed42 (it is not named as a log"),
    "Markdown": (lambda path: path.rename(path.with_suffix(".md")), "train_seed42.md (it is not named as a log"),
    "absence": (lambda path: path.unlink(), "no log of seed 42 was read"),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_best_log_that_is_not_read_makes_a_doubt_and_no_fail(way, tmp_path):
    folder = write(tmp_path)
    hide, word = HIDDEN[way]
    hide(folder / "train_seed42.log")
    found = audit(folder)
    assert found.verdict == "not ruled" and word in said(found, "doubt")
    assert [finding.seed for finding in found.findings if "no log has a score of it" in finding.text] == [42]


def test_seeds_that_are_only_counted_need_as_many_logs(tmp_path):
    folder = write(tmp_path, claims={"seeds": None, "num_seeds": 3})
    (folder / "train_seed42.log").unlink()
    assert audit(folder).proved == [] and "counts 3 seeds, and 2 of them" in said(audit(folder), "doubt")


def test_with_all_logs_the_same_claim_is_refuted(tmp_path):
    folder = write(tmp_path, claims={"val_bpb": 0.9}, files={"extra_seed7.log.zst": "x"})
    assert audit(folder).proved == ["claims"]


def test_claim_of_a_seed_is_not_refuted_while_another_log_of_it_is_not_read(tmp_path):
    folder = write(tmp_path, claims={"seed_results": {str(seed): bits for seed, bits in zip(SEEDS, (1.05, *BITS[1:]), strict=True)}})
    assert audit(folder).proved == ["claims"]
    (folder / "eval_seed42.log.zst").write_bytes(b"x")
    assert audit(folder).proved == [] and "eval_seed42.log.zst, which was not read" in said(audit(folder), "doubt")


@pytest.mark.parametrize("name", ["{}.gz", "logs/{}.GZ", "train_seed42.gz"])
def test_log_that_is_packed_with_gzip_is_read(name, tmp_path):
    folder = write(tmp_path)
    (folder / "logs").mkdir()
    path = folder / "train_seed42.log"
    (folder / name.format(path.name)).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    found = audit(folder)
    assert [run.seed for run in found.runs] == list(SEEDS) and said(found, "pass") and not said(found, "doubt")


def test_packed_log_is_bounded_by_its_unpacked_size(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "LOG_BYTES", 10_000)
    folder = write(tmp_path)
    (folder / "train_seed42.log").unlink()
    (folder / "train_seed42.log.gz").write_bytes(gzip.compress(bytes(10_001)))
    assert "more than 10,000 bytes when it is unpacked" in said(audit(folder), "doubt") and audit(folder).proved == []


def test_link_that_is_not_followed_is_said(tmp_path):
    folder = write(tmp_path)
    (folder / "old_seed5.log").symlink_to(tmp_path)
    assert "old_seed5.log (it is a link)" in said(audit(folder), "unknown") and not said(audit(folder), "doubt")


HEADER = "val_loader:shards pattern=fineweb_val_*.bin tokens:40540160\nstep:5/9 train_loss:2.0 train_time:{}ms\n"


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("before", ["", "[2026-04-01 12:00:0{}] ", "=== Run {}: "])
def test_runs_of_all_seeds_in_one_file_are_parted(order, before, tmp_path):
    folder = write(tmp_path)
    text = "\n".join(
        (folder / f"train_seed{SEEDS[place]}.log").read_text().replace("seed:", f"{before.format(place)}seed:") for place in order
    )
    for seed in SEEDS:
        (folder / f"train_seed{seed}.log").unlink()
    (folder / "all_seeds.log").write_text(text)
    found = audit(folder)
    assert [(run.seed, run.score.bits_per_byte) for run in found.runs] == list(zip(SEEDS, BITS, strict=True))
    assert said(found, "pass") and "has 3 runs" in said(found, "unknown") and not said(found, "doubt") and found.proved == []


def test_parted_run_has_its_own_steps_and_the_header_before_its_seed():
    text = "".join(
        HEADER.format(600_000 + seed)
        + f"seed:{seed}\nstep:9/9 train_loss:2.0 train_time:{seed}000ms\nfinal val_loss:2.0 val_bpb:1.{seed}\n"
        for seed in (42, 314)
    )
    first, second = logs.parts("train.log", text)
    assert (first.seed, second.seed, second.val_tokens, second.lines["seed"]) == (42, 314, 40_540_160, 8)
    assert second.of("training") == 314.0 and [one.bits_per_byte for one in first.passes] == [1.42]


@pytest.mark.parametrize(
    "line", ["GPTQ calibration seed: 7", "seed: 42", "seed 7 val_bpb: 1.2", "seeds: 1 2 3", "        seed = 0", "eval_seed: 9"]
)
def test_other_words_on_seeds_part_no_log(line):
    assert len(logs.parts("train.log", log(seed=42, after=f"{line}\nfinal val_loss:2.0 val_bpb:1.1"))) == 1


def test_rerun_of_the_same_seed_in_the_same_file_is_one_run(tmp_path):
    folder = write(tmp_path, seeds=(42,), claims={"val_bpb": BITS[0]})
    path = folder / "train_seed42.log"
    path.write_text(path.read_text() + log(BITS[1]))
    (found,) = audit(folder).runs
    assert found.score.bits_per_byte == BITS[0] and found.seed == 42
