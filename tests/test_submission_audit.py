"""Published folders are judged by arithmetic on their files, packed scripts are read and never run, bad input is one sentence."""

import base64
import bz2
import io
import json
import lzma
import math
import zipfile
import zlib

import brotli
import pandas as pd
import pytest

from stages.audit.code import reading, unpack
from stages.audit.submission import __main__ as command
from stages.audit.submission import folder as folders
from stages.audit.submission.logs import log as logs
from stages.audit.submission.logs import phases

TARGETS, BYTES = 62_021_632, 151_080_363
SCRIPT = """
def eval_val_ttt(model, val_tokens, optimizer, batch_seqs):
    loss_sum = 0.0
    for start in range(0, len(val_tokens), 64):
        nll = model(val_tokens[start: start + 64])
        loss_sum += float(nll.sum())
        nll.mean().backward()
        optimizer.step()
    return loss_sum
"""


def nats(bits, targets=TARGETS, num_bytes=BYTES):
    """The val_loss that a script with the right counts prints beside `bits`."""
    return bits * math.log(2) * num_bytes / targets


def log(
    seed,
    bits,
    *,
    loss=None,
    targets=TARGETS,
    size=15_900_000,
    train=599_973,
    name="final_int8_zlib_roundtrip",
    passes="",
    seconds=67.9,
    extra="",
    world=8,
):
    loss = nats(bits) if loss is None else loss
    return f"""val_loader:shards pattern=fineweb_val_*.bin tokens:{targets}
world_size:{world} grad_accum_steps:1
seed:{seed}
step:1/20000 train_loss:6.9344 train_time:56ms step_avg:55.83ms
step:13235/20000 val_loss:2.0619 val_bpb:1.2212 train_time:{train}ms step_avg:45.33ms
stopping_early: wallclock_cap train_time:{train}ms step:13235/20000
{extra}
Total submission size: 67275034 bytes
Code size: {len(SCRIPT)} bytes
Total submission size int8+zlib: {size} bytes
{passes}
{name} val_loss:{loss:.4f} val_bpb:{bits:.4f} eval_time:{seconds * 1000:.0f}ms
{name}_exact val_loss:{loss:.8f} val_bpb:{bits:.8f}
"""


@pytest.fixture
def submission(tmp_path):
    """Write a folder: clean unless something is changed."""

    def write(*, claims=None, script=SCRIPT, readme="Trained on 8xH100.", bits=(1.0810, 1.0812, 1.0807), **changes):
        root = tmp_path / "2026-04-01_Ours"
        root.mkdir(exist_ok=True)
        for seed, value in zip((42, 314, 999), bits, strict=False):
            (root / f"train_seed{seed}.log").write_text(log(seed, value, **changes))
        stated = {
            "val_bpb": round(sum(bits) / len(bits), 8),
            "hardware": "8xH100 80GB SXM",
            "seed_results": {
                str(seed): {"val_bpb": value, "artifact_bytes": 15_900_000} for seed, value in zip((42, 314, 999), bits, strict=False)
            },
        }
        (root / "submission.json").write_text(json.dumps(stated | (claims or {})))
        (root / "train_gpt.py").write_text(script)
        (root / "README.md").write_text(readme)
        return root

    return write


def verdicts(found, check):
    return [finding.verdict for finding in found.findings if finding.check == check]


def said(found, check):
    return " ".join(finding.text for finding in found.findings if finding.check == check)


def test_clean_folder_has_nothing_against_it_and_is_still_not_ruled(submission):
    found = folders.audit(submission())
    assert found.verdict == "not ruled" and not {finding.verdict for finding in found.findings} & {"fail", "doubt"}
    assert verdicts(found, "bytes") == ["pass"] * 3 and verdicts(found, "training") == ["pass"] * 3
    assert [hint.kind for hint in found.hints] == ["score first"]


def test_numbers_of_a_log_are_those_that_it_prints():
    found = logs.parse("a.log", log(7, 1.2163) + "total_eval_time:70.5s\n")
    assert (found.seed, found.val_tokens, found.total_bytes, found.of(phases.TRAINING)) == (7, TARGETS, 15_900_000, 599.973)
    assert len(found.passes) == 1 and found.score.bits_slack == 5e-9 and found.score.seconds == 67.9 and found.total_eval_seconds == 70.5
    assert (found.lines["seed"], found.lines["val_tokens"], found.lines["total_bytes"], found.score.line) == (3, 1, 10, 13)


def test_late_logs_are_read_too():
    text = """  seed: 42
  world_size: 8
train_shards: 80
val_tokens: 47851520
|   0  NVIDIA H100 80GB HBM3          On  |
4878/20000 val_loss: 2.3363 val_bpb: 1.0675
stopping_early: wallclock_cap train_time: 596132ms step: 4878/20000
diagnostic pre-quantization post-ema val_loss:2.33526223 val_bpb:1.06705442 eval_time:6754ms
Code size (uncompressed): 151945 bytes
Code size (compressed): 31240 bytes
GPTQ:collected 67 Hessians in 2.7s
Total submission size quantized+brotli: 15988451 bytes
diagnostic quantized val_loss:2.35496317 val_bpb:1.07605640 eval_time:10245ms
quantized_ttt_phased val_loss:2.32665231 val_bpb:1.06318931 eval_time:429418ms
total_eval_time:429.4s
"""
    found = logs.parse("train_seed42.log", text)
    assert (found.seed, found.val_tokens, found.train_shards, found.gpus) == (42, 47_851_520, 80, {"H100"})
    assert found.code_bytes == [151_945, 31_240] and found.making_seconds == pytest.approx(598.832)
    assert found.score.name == "quantized_ttt_phased" and found.eval_seconds == pytest.approx(439.663)


@pytest.mark.parametrize(
    "targets, num_bytes, verdict, word",
    [
        (TARGETS, BYTES, "pass", "as this export"),
        (TARGETS, BYTES * 1.1671, "fail", "counted twice"),
        (47_851_520, 151_074_499 * 1.0895, "fail", "CaseOps"),
        (40_540_160, 151_078_222, "pass", "as this export"),
        (8_000_000, 8_000_000 * 2.436, "fail", "a part of the val split"),
        (50_000_000, 151_060_000, "doubt", "makes the score higher"),
        (50_000_000, 151_090_000, "fail", "the score is too low"),
        (63_779_840, 63_779_840 * BYTES / TARGETS, "doubt", "an older and larger export"),
        (50_000_000, 151_075_891, "pass", "may drop"),
        (TARGETS, TARGETS * (BYTES + 31 * 143) / (TARGETS + 31 * 64), "doubt", "32 times"),
    ],
)
def test_bytes_follow_from_loss_tokens_and_bits(submission, targets, num_bytes, verdict, word):
    loss = nats(1.0810, targets, num_bytes)
    found = folders.audit(submission(bits=(1.0810,), loss=loss, targets=targets))
    assert verdicts(found, "bytes")[0] == verdict and word in said(found, "bytes")


def test_loss_and_bits_of_submission_json_must_belong_to_a_known_export(submission):
    found = folders.audit(submission(claims={"val_loss": 2.5012, "val_bpb": 1.0001}))
    assert "no known export" in said(found, "bytes")
    found = folders.audit(submission(claims={"val_loss": 2.0533, "val_bpb": 1.2160}))
    assert "no known export" not in said(found, "bytes")


@pytest.mark.parametrize(
    "size, verdict, word",
    [(16_000_000, ["pass"], "at most"), (16_000_001, ["fail"] * 3, "16 MiB"), (16_777_217, ["fail"] * 3, "777,217 above")],
)
def test_size_is_in_decimal_bytes(submission, size, verdict, word):
    found = folders.audit(submission(size=size, claims={"seed_results": {}}))
    assert verdicts(found, "size") == verdict and word in said(found, "size") and (found.verdict == "not legal") == (size > 16_000_000)
    assert ("it would fit" in said(found, "size")) == (size == 16_000_001)


def test_readme_that_speaks_of_mebibytes_is_named(submission):
    assert "doubt" in verdicts(folders.audit(submission(readme="fits 16 MiB, on 8xH100")), "size")


def test_log_of_another_run_is_named(submission):
    root = submission()
    (root / "train_seed42.log").write_text(log(42, 1.0271))
    found = folders.audit(root)
    assert found.verdict == "not legal" and "1.081 bits per byte" in said(found, "claims") and "1.0271" in said(found, "claims")


def test_claim_may_be_any_pass_of_the_log(submission):
    root = submission(
        passes="final_int6_sliding_window val_loss:1.9000 val_bpb:1.0500 eval_time:75000ms",
        claims={"seed_results": {"42": {"val_bpb": 1.0500}}},
    )
    assert verdicts(folders.audit(root), "claims") == ["pass"]


def test_what_makes_the_artifact_counts_as_training(submission):
    found = folders.audit(submission(extra="prequant_ttt:done in 494.9s (8 gpus)\nGPTQ:collected 67 Hessians in 50.9s", train=588_124))
    assert verdicts(found, "training") == ["fail"] * 3 and "1133.9 s of 600" in said(found, "training")
    assert verdicts(found, "lineage") == ["doubt"] * 3


@pytest.mark.parametrize("train, verdict", [(600_000, "pass"), (600_185, "pass"), (602_048, "fail")])
def test_only_the_last_step_may_be_over_the_budget(submission, train, verdict):
    assert verdicts(folders.audit(submission(train=train)), "training") == [verdict] * 3


def test_evaluation_is_judged_by_its_pass_and_the_sum_is_a_doubt(submission):
    assert verdicts(folders.audit(submission(seconds=1167.5)), "evaluation") == ["fail"] * 3
    found = folders.audit(submission(seconds=571.8, passes="sliding val_loss:1.9 val_bpb:1.12 eval_time:94900ms"))
    assert verdicts(found, "evaluation") == ["pass", "doubt"] * 3 and "666.7 s" in said(found, "evaluation")


@pytest.mark.parametrize(
    "changes",
    [{"claims": {"hardware": "1xH100"}}, {"claims": {"hardware": "8xA100"}}, {"world": 1}, {"claims": {"hardware": ""}, "readme": "fast"}],
)
def test_times_of_another_machine_are_never_in_order(submission, changes):
    found = folders.audit(submission(train=900_000, **changes))
    assert verdicts(found, "time") == ["unknown"] and not verdicts(found, "training")


def test_seeds_and_significance_are_reported(submission):
    found = folders.audit(submission(), record=1.0900)
    assert verdicts(found, "seeds") == ["pass"] and found.significance.p < 0.01 and verdicts(found, "significance") == ["pass"]
    assert found.significance.margin == pytest.approx(0.005 * 1.0810 / nats(1.0810))
    single = folders.audit(submission(bits=(1.0810,), claims={"seed_results": {}}).rename(submission().parent / "single"), record=1.09)
    assert single.significance is not None


def test_one_seed_says_nothing(submission):
    found = folders.audit(submission(bits=(1.0810,)), record=1.0900)
    assert verdicts(found, "seeds") == ["doubt"] and "nothing can be said" in said(found, "significance")


def test_seeds_on_different_tokens_are_not_one_configuration(submission):
    root = submission()
    (root / "train_seed42.log").write_text(log(42, 1.0810, loss=nats(1.0810, 40_540_160, 151_078_222), targets=40_540_160))
    assert "not one configuration" in said(folders.audit(root), "seeds")


def test_many_train_shards_point_at_overlap(submission):
    assert verdicts(folders.audit(submission(extra="train_shards: 1499")), "overlap") == ["doubt"]


RAW = [{"id": lzma.FILTER_LZMA2}]


def zipped(source):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("package/inner.py", source)
    return buffer.getvalue()


def b85(data):
    return base64.b85encode(data).decode()


BIG = SCRIPT + "open('executed', 'w').close()\n# " + "x" * 100
LZMA, XZ, ZLIB = (
    b85(packed)
    for packed in (lzma.compress(BIG.encode(), lzma.FORMAT_RAW, filters=RAW), lzma.compress(BIG.encode()), zlib.compress(BIG.encode()))
)
PACKED = {
    "raw LZMA": f'import lzma as L,base64 as B\nexec(L.decompress(B.b85decode("{LZMA}"),format=L.FORMAT_RAW,'
    'filters=[{"id":L.FILTER_LZMA2}]))',
    "xz": f"import lzma\nfrom base64 import b85decode\nexec(lzma.decompress(b85decode('{XZ}')))",
    "zlib by name": f"import zlib,base64\nP='{ZLIB}'\nS=zlib.decompress(base64.b85decode(P)).decode()\nexec(compile(S,'a','exec'))",
    "bz2": f"import bz2,base64\nexec(bz2.decompress(base64.b85decode('{b85(bz2.compress(BIG.encode()))}')))",
    "brotli": f"import brotli,base64\nexec(brotli.decompress(base64.b85decode('{b85(brotli.compress(BIG.encode()))}')))",
    "two layers": "import zlib,base64\nexec(zlib.decompress(base64.b85decode('"
    + b85(zlib.compress(f"import zlib,base64\nexec(zlib.decompress(base64.b85decode('{ZLIB}')))".encode()))
    + "')))",
    "archive": f"import base64\nD=base64.b85decode('{b85(zipped(BIG))}')\nrun(D)",
    "JSON": "import json,zlib,base64\nM=zlib.decompress(base64.b85decode('"
    + b85(zlib.compress(json.dumps({"m.py": BIG}).encode()))
    + "'))",
    "strings joined": f"import zlib,base64\nA='{ZLIB[:50]}'\nexec(zlib.decompress(base64.b85decode(A+'{ZLIB[50:]}')))",
}


@pytest.mark.parametrize("case", PACKED)
def test_packed_script_is_read_without_running_it(case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    layers, unread = unpack.layers("train_gpt.py", PACKED[case])
    assert layers[-1].source == BIG and not unread and not (tmp_path / "executed").exists()
    assert [hint.kind for hint in reading.hints("x", layers[-1].tree)] == ["score first"]


@pytest.mark.parametrize(
    "text, word",
    [
        ("(" * 5000 + ")" * 5000, "nested too deeply"),
        ("def", "no Python"),
        ("y = 2\nx = (1", "no valid Python"),
        ("a b c d e\n" * 100_000, "words of code"),
        (f"import zlib\nexec(zlib.decompress(base64.b85decode('{b85(zlib.compress(bytes(20_000_000)))}')))", "more than 16,000,000"),
        ("exec(open('x').read())", "at run time"),
        ("import zlib\nexec(zlib.decompress(b'" + "y" * 200 + "'))", "refuses its data"),
        ("import base64,marshal\nexec(marshal.loads(base64.b85decode('" + b85(bytes(range(250, 255)) * 40) + "')))", "no source code"),
        (
            "import lzma\nlzma.decompress(b'" + "a" * 99 + "', format=lzma.FORMAT_RAW, filters=[{'id': 33, 'dict_size': 4000000000}])",
            "dictionary",
        ),
        (
            "a0='"
            + "x" * 999
            + "'\n"
            + "\n".join(f"a{i + 1}=a{i}+a{i}" for i in range(18))
            + "\nimport base64\nbase64.b64decode(a18.encode())",
            "come to more",
        ),
    ],
)
def test_hostile_script_is_a_sentence(text, word):
    _, unread = unpack.layers("train_gpt.py", text)
    assert any(word in sentence for sentence in unread), unread


SLOT = """
def eval_val_slot(model, val_tokens, batch_seqs):
    loss_sum = 0.0
    for window in range(0, len(val_tokens), batch_seqs):
        delta = torch.zeros(1, 1, 512, device="cuda", requires_grad=True)
        opt = torch.optim.AdamW([delta], lr=0.005)
        for _ in range(8):
            loss = model(window, delta)
            loss.backward()
            opt.step()
        loss_sum += model(window, delta).sum()
    return loss_sum
"""
CODE = {
    "adapts first": SLOT,
    "batch-shared": SLOT,
    "trains on val": "def adapt(model, val_tokens, opt):\n    for part in val_tokens:\n        model(part).backward()\n"
    "        opt.step()\n",
    "target in hash": "def score(val_np, j, primes):\n    tgt = val_np[j]\n    key = (hashed ^ (tgt * primes[3])) & mask\n"
    "    return table[key]\n",
    "target in gate": "def score(val_tokens, y):\n    hint_gate = is_word_start[y]\n    return hint_gate\n",
    "best of several": "def score(val_tokens):\n    return min(nll_first, nll_second)\n",
    "val in calibration": "H = collect_hessians(model, val_tokens)\n",
    "network": "import urllib.request\n",
}


@pytest.mark.parametrize("kind", CODE)
def test_code_shows_what_it_does_with_validation_tokens(kind):
    layers, _ = unpack.layers("train_gpt.py", CODE[kind])
    assert kind in {hint.kind for hint in reading.hints("train_gpt.py", layers[0].tree)}


HONEST = [
    SCRIPT,
    "def train(model, tokens, optimizer):\n    model(tokens).backward()\n    optimizer.step()\n",
    "def eval_val(model, val_tokens, batch_seqs):\n    val_loss_sum = 0\n    for x, y in val_tokens:\n        val_loss_sum += f(x, y)\n"
    "        token_bytes = base_bytes[y] + (has_blank[y] & ~boundary[x])\n    return val_loss_sum\n",
    "def quantize(model, train_tokens):\n    return collect_hessians(model, train_tokens)\n",
    # one delta for each window
    SLOT.replace("torch.zeros(1, 1, 512", "torch.zeros(batch_seqs, 1, 512"),
]


@pytest.mark.parametrize("source", HONEST)
def test_honest_code_is_not_accused_of_what_it_does_not_do(source):
    layers, _ = unpack.layers("train_gpt.py", source)
    kinds = {hint.kind for hint in reading.hints("train_gpt.py", layers[0].tree) if hint.against}
    assert kinds <= ({"adapts first"} if "delta" in source else set())


def test_hints_never_decide(submission):
    found = folders.audit(submission(script=SLOT))
    assert found.hints and found.verdict == "not ruled"


def test_table_has_a_row_for_each_folder_and_goes_to_csv(submission, tmp_path, capsys):
    good = submission()
    good = good.rename(tmp_path / "good")
    bad = submission(size=16_084_685, claims={"seed_results": {}})
    assert command.main([str(good), str(bad), "--csv", str(tmp_path / "out.csv"), "--record", "1.09"]) == 1
    rows = pd.read_csv(tmp_path / "out.csv").set_index("folder")
    assert rows.loc["good", "verdict"] == "not ruled" and rows.loc[bad.name, "size"] == "fail" and rows.loc["good", "p"] < 0.01
    assert "not legal" in capsys.readouterr().out


def test_one_folder_is_told_in_full(submission, capsys):
    assert command.main([str(submission())]) == 0
    out = capsys.readouterr().out
    assert "not ruled" in out and "as this export" in out and "+ score first" in out and "adds to the sums" in out
    assert "nothing against it" in out and "name it with --pr" in out and "train_seed42.log, line 13" in out


@pytest.mark.parametrize(
    "content, word",
    [
        ("{", "no valid JSON"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "no valid JSON"),
        ('{"val_bpb": ' + "9" * 5000 + "}", "can be believed"),
    ],
)
def test_bad_file_is_a_finding_and_does_not_cost_the_folder(submission, capsys, content, word):
    root = submission()
    (root / "submission.json").write_text(content)
    assert command.main([str(root)]) == 0
    printed = capsys.readouterr()
    assert word in printed.out and "as this export" in printed.out and printed.err == ""


def test_folder_without_anything_to_read_is_one_sentence(tmp_path, capsys):
    assert command.main([str(tmp_path)]) == command.NOT_READ
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_missing_folder_is_one_sentence_and_does_not_hide_the_others(submission, capsys):
    root = submission()
    assert command.main([str(root), str(root / "absent")]) == command.NOT_READ
    printed = capsys.readouterr()
    assert root.name in printed.out and "is no folder" in printed.err


def test_links_are_not_followed_and_strange_values_are_not_believed(submission, tmp_path):
    secret = tmp_path / "elsewhere.log"
    secret.write_text(log(5, 0.5))
    root = submission(claims={"val_bpb": True, "val_loss": "x", "bytes_total": "16 MB", "seed_results": [1], "hardware": 8})
    (root / "train_seed5.log").symlink_to(secret)
    found = folders.audit(root)
    assert {entry.seed for entry in found.logs} == {42, 314, 999}
