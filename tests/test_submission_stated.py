"""What submission.json states is read in the forms that people write, and what cannot be read is named and not passed over."""

import json

import pytest

from stages.audit.submission import stated
from stages.audit.submission.folder import audit
from tests.submission_folders import BITS, SEEDS, log, write


def said(found, check, verdict=None):
    return " ".join(finding.text for finding in found.findings if finding.check == check and verdict in (None, finding.verdict))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_mark_of_the_byte_order_hides_no_claim(encoding, tmp_path):
    folder = write(tmp_path)
    text = json.dumps({"val_bpb": 0.9, "seeds": list(SEEDS)})
    (folder / "submission.json").write_bytes((text if encoding != "utf-16-be" else f"\ufeff{text}").encode(encoding))
    assert audit(folder).proved == ["claims"]


def test_broken_json_says_where_and_is_no_proof(tmp_path):
    found = audit(write(tmp_path, files={"submission.json": '{\n "val_bpb": 0.9,\n}'}))
    assert found.verdict == "not ruled" and "no valid JSON at line 3, column 1" in said(found, "claims", "doubt")
    assert "no submission.json that can be read" in said(found, "claims", "unknown")


def test_key_that_stands_twice_is_named(tmp_path):
    found = audit(write(tmp_path, files={"submission.json": '{"val_bpb": 0.9, "val_bpb": 1.08100288}'}))
    assert "more than once in one object (val_bpb)" in said(found, "claims", "doubt")


FORMS = ["+0.9", " .9", "~0.9", "≈ 0.90", "9e-1", [0.9], ["0.9"], {"mean": 0.9, "std": 0.001}]


@pytest.mark.parametrize("value", FORMS, ids=str)
def test_score_is_read_in_every_form(value, tmp_path):
    assert stated.read(value) == 0.9
    assert audit(write(tmp_path, claims={"val_bpb": value})).proved == ["claims"]


@pytest.mark.parametrize(
    "claims",
    [{"VAL_BPB": 0.9}, {"valBPB": 0.9}, {"val-bpb": "0.9"}, {"metrics": {"val_bpb": 0.9}}, {"seedResults": {"s42": {"Val_BPB": 0.9}}}],
    ids=str,
)
def test_score_is_found_under_other_spellings_of_its_name(claims, tmp_path):
    assert audit(write(tmp_path, claims={"val_bpb": None} | claims)).proved == ["claims"]


@pytest.mark.parametrize(
    "value, shown", [("0,9000", '"0,9000"'), (True, "true"), ([0.9, 0.8], "[0.9, 0.8]"), ({"a": 0.9}, '{"a": 0.9}')], ids=str
)
def test_score_that_cannot_be_read_is_shown_with_its_field(value, shown, tmp_path):
    found = audit(write(tmp_path, claims={"val_bpb": value}))
    assert f"val_bpb of submission.json has the value {shown}" in said(found, "claims", "doubt") and found.proved == []
    assert "missing" not in said(found, "claims") and not said(found, "claims", "pass")


def test_claims_without_a_known_score_are_compared_with_nothing(tmp_path):
    found = audit(write(tmp_path, claims={"val_bpb": None, "seed_results": {"42": {"quantized_bpb": 0.9}}}))
    assert "no score under a name that is known" in said(found, "claims", "unknown")


@pytest.mark.parametrize(
    "claimed, logged, proved", [(1.0, 1.49, True), (1.0, 1.0049, False), (1.1, 1.104, False), (1.1, 1.1051, True), (1, 1.08, True)]
)
@pytest.mark.parametrize("by_seed", [False, True])
def test_claim_is_rounded_by_no_more_than_half_a_hundredth(claimed, logged, proved, by_seed, tmp_path):
    claims = {"val_bpb": claimed} | ({"seed_results": {str(seed): {"val_bpb": claimed} for seed in SEEDS}} if by_seed else {})
    found = audit(write(tmp_path, claims=claims, bits=(logged, logged + 1e-5, logged + 2e-5)))
    assert (found.proved == ["claims"]) == proved and ("agrees" in said(found, "claims", "pass")) == (not proved)


@pytest.mark.parametrize(
    "claims, verdict, word",
    [
        ({"bytes_total": "17.5 MB"}, "fail", "bytes_total is 17,500,000 bytes"),
        ({"bytes_total": "15.9 MiB"}, "fail", "16,672,358"),
        ({"bytes_total": "17500 kB"}, "fail", "17,500,000"),
        ({"bytes_total": "16500 KiB"}, "fail", "16,896,000"),
        ({"bytes_total": "15.3 MiB"}, "doubt", "43,212 above"),  # 15.25 MiB would fit
        ({"bytes_total": {"max": 17_500_000}}, "fail", "bytes_total.max is 17,500,000"),
        ({"bytes_total": {"42": 15_900_000, "314": "17.5 MB"}}, "fail", "bytes_total.314"),
        ({"bytes_total": {"raw": 67_000_000, "packed": 15_900_000}}, "doubt", "the largest of several"),
        ({"bytes_total": [15_900_000, 17_500_000]}, "fail", "17,500,000"),
        ({"artifact_size": 17_500_000}, "fail", "artifact_size is"),
        ({"artifactSizeMB": 17.5}, "fail", "17,500,000"),
        ({"artifact_size": 17.5}, "doubt", "if it is in MB"),
        ({"model_size_bytes": 67_000_000}, "doubt", "the packed model may be smaller"),
    ],
    ids=str,
)
def test_size_is_read_with_its_unit_and_under_its_names(claims, verdict, word, tmp_path):
    found = audit(write(tmp_path, claims=claims))
    assert word in said(found, "size", verdict) and found.proved == (["size"] if verdict == "fail" else [])


@pytest.mark.parametrize(
    "claims", [{"bytes_total": "15.9 MB"}, {"bytes_total": "16 MB"}, {"bytes_total": {"limit": 16_777_216, "used": 15_900_000}}], ids=str
)
def test_size_within_the_cap_is_in_order(claims, tmp_path):
    assert not said(audit(write(tmp_path, claims=claims)), "size", "doubt")


def test_size_that_cannot_be_read_is_shown(tmp_path):
    found = audit(write(tmp_path, claims={"bytes_total": "small"}))
    assert 'bytes_total of submission.json has the value "small"' in said(found, "claims", "doubt")


@pytest.mark.parametrize("name", ["model.ptz", "final.int6.bin", "weights.safetensors", "model.pt"])
def test_model_in_the_folder_that_is_too_large_is_a_doubt(name, tmp_path):
    folder = write(tmp_path, script="x = 1\n" * 20)
    with open(folder / name, "wb") as handle:
        handle.truncate(15_999_900)
    found = audit(folder)
    assert found.proved == [] and "with the 120 bytes of the script 16,000,020, above" in said(found, "size", "doubt")
    with open(folder / name, "wb") as handle:
        handle.truncate(15_999_880)
    assert not said(audit(folder), "size", "doubt")


def test_run_that_is_not_claimed_is_not_averaged(tmp_path):
    folder = write(tmp_path, files={"dev_seed7.log": log(1.05, seed=7)})
    assert said(audit(folder), "claims", "pass") and not said(audit(folder), "claims", "doubt")
    mean = sum((*BITS, 1.05)) / 4
    (folder / "submission.json").write_text(json.dumps({"val_bpb": mean, "seeds": SEEDS, "hardware": "8xH100"}))
    assert "no log has that score" in said(audit(folder), "claims", "doubt")
