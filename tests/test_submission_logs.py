"""What a log says is read in the spellings of the field, with its line; what it does not say is not made up."""

from types import SimpleNamespace

import pytest

from stages.audit.submission import contents
from stages.audit.submission.folder import audit
from stages.audit.submission.logs import lines, phases
from stages.audit.submission.logs import log as logs
from stages.audit.submission.rules import texts
from tests import submission_folders
from tests.submission_folders import BITS, write


def read(text, name="train.log"):
    return logs.parse(name, text)


def said(found, check, verdict=None):
    return " ".join(finding.text for finding in found.findings if finding.check == check and verdict in (None, finding.verdict))


def verdicts(found, check):
    return [finding.verdict for finding in found.findings if finding.check == check]


@pytest.mark.parametrize(
    "line, bits, loss, name",
    [
        ("final_int8_zlib_roundtrip val_loss:2.0513 val_bpb:1.2149 eval_time:67952ms", 1.2149, 2.0513, "final_int8_zlib_roundtrip"),
        ("ttt_sliding:done val_loss=1.889 val_bpb=1.1194 elapsed=410.2s", 1.1194, 1.889, "ttt_sliding:done"),
        ("final_probe_exact val_bpb:1.19948112 delta_bpb:-0.00619109", 1.19948112, None, "final_probe_exact"),
        ("Final val_bpb = 1.0810", 1.0810, None, "Final"),
        ("sliding | val_loss: 2.79 | bpb: 1.0810", 1.0810, 2.79, "sliding"),
        ('{"stage": "ttt", "val_loss": 2.79, "val_bpb": 1.0810}', 1.0810, 2.79, None),
        ("slot bits per byte: 0.9300", 0.93, None, "slot"),
        ("with TTT: val_bpb: 1.0810", 1.0810, None, "with TTT"),
        ("returned val_bpb=1.0810 {'lr': 0.02}", 1.0810, None, "returned"),
        ("x val_loss:5.7e-07 val_bpb:3.4e-07", 3.4e-07, 5.7e-07, "x"),
    ],
)
def test_scores_are_read_with_and_without_loss(line, bits, loss, name):
    (found,) = read(f"a\n{line}\n").passes
    assert (found.bits_per_byte, found.loss_nats, found.line) == (bits, loss, 2) and name in (None, found.name)


@pytest.mark.parametrize(
    "line",
    [
        "step:1000/20000 val_loss:2.06 val_bpb:1.22 train_time:45000ms",
        "  ttt_chunk [12/1893] bpb=1.1212 time=3.1s",
        "[50.0%] 300/600 windows running_bpb=1.12",
        "record to beat: 1.0810, delta_bpb:-0.006",
        '    log0(f"final val_loss:{val_loss:.4f} val_bpb:{val_bpb:.4f}")',
        "        print('val_bpb: 1.0')",
        "best_bpb_std: 0.0002",
    ],
)
def test_progress_and_code_are_no_scores(line):
    assert read(line).passes == []


def test_digits_tell_the_error_also_with_an_exponent():
    assert lines.uncertainty("1.0810") == pytest.approx(5e-5) and lines.uncertainty("3.4e-07") == pytest.approx(5e-9)
    assert lines.uncertainty("3") == 0.5 and lines.uncertainty("1e-320") == pytest.approx(0.0)


@pytest.mark.parametrize(
    "text, seed",
    [
        ("seed: 42\n        seed = 0\n", 42),
        ("def f():\n    seed = 7\n    args.seed = 8\nseed:1337\n", 1337),
        ("Seed: 5", 5),
        ("  seed: 6", 6),
        ("Running with seed 9 on 8 GPUs", 9),
        ("seeds: 1 2 3", None),
        ("args: {'lr': 0.02, 'seed': 11}", 11),
        ("torch.manual_seed(args.seed)\n", None),
        ("import os\nseed = int(os.environ.get('SEED', 3))\n", None),
    ],
)
def test_seed_is_what_ran_and_not_what_source_says(text, seed):
    assert read(text).seed == seed


@pytest.mark.parametrize("name, seed", [("train_seed314.log", 314), ("log_s7.txt", 7), ("train_s42_final.log", 42), ("steps.log", None)])
def test_seed_is_read_from_the_name_of_the_file(name, seed):
    assert read("x", name).seed == seed


ADAPTATIONS = {
    "prequant_ttt:done in 494.9s (8 gpus)": 494.9,
    "prequant_ttt:done elapsed=172.0s": 172.0,
    "prequant_ttt:done total_time=230.7s": 230.7,
    "pre_quant_ttt:done epochs=1 total_time=112.5s": 112.5,
    "pre-quant TTT complete, took 230.7 s": 230.7,
    "PreQuantTTT finished in 98,000ms": 98.0,
    "prequant_ttt: epoch 1/2 time:50.0s\nprequant_ttt: epoch 2/2 time:99.0s\nprequant_ttt:done elapsed=100.1s": 100.1,
    "ttt_adamw:epoch 5/6 loss:1.8 time:92.0s\nttt_adamw:epoch 6/6 loss:1.8 time:111.0s\nttt:elapsed=111.6s": 111.6,
    "prequant_ttt:done elapsed=172.0s\nprequant_ttt:done elapsed=172.0s": 172.0,
}


@pytest.mark.parametrize("text", ADAPTATIONS)
def test_adaptation_before_quantization_is_read_in_every_spelling_and_once(text, tmp_path):
    assert read(text).of(phases.ADAPTATION) == pytest.approx(ADAPTATIONS[text])
    found = audit(write(tmp_path, before=text, train=588_047))
    assert (
        "pre-quantization TTT" in found.suggested
        and verdicts(found, "training") == ["fail" if 588.0 + ADAPTATIONS[text] > 601 else "pass"] * 3
    )


@pytest.mark.parametrize(
    "text",
    [
        "ttt_sliding:start chunks=1893 epochs=3",
        "ttt_lora:warming up compile\nttt_lora:compile warmup done (91.2s)",
        "ttt_phased: rank 0 done in 300.0s",
        "prequant_ttt_enabled: False",
        "gptq_reserve_seconds: 10.0",
    ],
)
def test_score_first_adaptation_and_switches_are_no_adaptation_of_the_artifact(text, tmp_path):
    found = audit(write(tmp_path, before=text))
    assert found.suggested == [] and verdicts(found, "training") == ["pass"] * 3


PHASES = {
    "GPTQ:collected 67 Hessians in 3.5s": phases.CALIBRATION,
    "gptq: calibration done in 6.9 s": phases.CALIBRATION,
    "GPTQ:quantized in 10.2s": phases.QUANTIZATION,
    "GPTQ:compressed+saved in 67.0s": phases.COMPRESSION,
    "Serialize: per-group lrzip compression done in 41.3s": phases.COMPRESSION,
    "gptq:generated 64 sequences in 198.3s": phases.GENERATED,
    "AR self-gen calibration: 64 seqs in 190.0s": phases.GENERATED,
    "ngram_hint build done in 197.7s": phases.HINTS,
    "Training complete in 599.9s": phases.TRAINING,
}


@pytest.mark.parametrize("text", PHASES)
def test_seconds_belong_to_their_phase(text):
    assert list(read(text).seconds) == [PHASES[text]]


def test_compression_is_no_calibration_and_self_generated_text_is_no_training_data(tmp_path):
    found = audit(write(tmp_path / "a", train=592_054, after="GPTQ:collected 67 Hessians in 3.5s\nGPTQ:compressed+saved in 67.0s"))
    assert verdicts(found, "training") == ["pass"] * 3 and "not counted: compression 67.0 s" in said(found, "training")
    found = audit(write(tmp_path / "b", train=600_058, after="gptq:generated 64 sequences in 198.3s\ngptq:collected hessians in 9.0s"))
    assert verdicts(found, "training") == ["pass", "doubt"] * 3 and "207.3 s beside" in said(found, "training")
    found = audit(write(tmp_path / "c", train=599_600, after="GPTQ:collected 67 Hessians in 6.9s"))
    assert verdicts(found, "training") == ["doubt"] * 3 and found.proved == []
    found = audit(write(tmp_path / "d", train=599_600, after="GPTQ:collected 67 Hessians in 46.9s"))
    assert found.proved == ["training"]


@pytest.mark.parametrize(
    "text, number",
    [
        ("val_tokens: 40540160", 40_540_160),
        ("Validation tokens: 40,540,160", 40_540_160),
        ("val_loader:shards pattern=fineweb_val_*.bin tokens:62021632", 62_021_632),
        ("val tokens = 62_021_632", 62_021_632),
        ("val_tokens: " + "9" * 400, None),
    ],
)
def test_numbers_of_tokens_are_read_in_their_spellings(text, number):
    assert read(text).val_tokens == number


@pytest.mark.parametrize(
    "text, size",
    [
        ("Total submission size quantized+brotli: 15991930 bytes", 15_991_930),
        ("Artifact: 15,543,829 bytes (14.82 MB)", 15_543_829),
        ("artifact_bytes: 15991930", 15_991_930),
        ("Total submission size int8+zlib: 15,900,000 bytes", 15_900_000),
        ("Total submission size: 67275034 bytes", None),
        ("Artifact size limit: 16000000 bytes", None),
    ],
)
def test_sizes_are_read_in_their_spellings(text, size):
    assert read(text).total_bytes == size


@pytest.mark.parametrize(
    "line, kind",
    [
        ("gptq:using validation data for calibration (256 seqs x 2048 tokens)", "val in calibration"),
        ("gptq:collected hessians for 68 layers (val-data)", "val in calibration"),
        ("train_files: ./data/fineweb10B/fineweb_val_*.bin", "trains on val"),
        ("val_docs: 10000", "train/val overlap"),
        ("gptq: no validation data in calibration", None),
        ("train_files: ./data/fineweb10B/fineweb_train_*.bin", None),
        ("val_files: ./data/fineweb10B/fineweb_val_*.bin", None),
        ("val_docs: 50000", None),
    ],
)
def test_what_a_log_says_outright_is_repeated_with_its_line(line, kind, tmp_path):
    found = audit(write(tmp_path, before=line))
    assert found.suggested == ([kind] if kind else []) and found.proved == []
    assert all(finding.lines == (5,) for finding in found.findings if finding.kind)


def test_three_logs_without_a_seed_are_three_runs(tmp_path):
    folder = write(tmp_path)
    for number, seed in enumerate(submission_folders.SEEDS):
        text = (folder / f"train_seed{seed}.log").read_text().partition("\n")[2]
        (folder / f"train_seed{seed}.log").unlink()
        (folder / f"train{number}.txt").write_text(text)
    found = audit(folder)
    assert len(found.runs) == 3 and verdicts(found, "seeds") == ["pass"] and verdicts(found, "claims") == ["pass"]


def test_every_log_of_a_seed_is_compared_with_the_claim(tmp_path):
    folder = write(tmp_path, seeds=(42,), claims={"val_bpb": 1.06128, "seed_results": {"42": {"val_bpb": 1.06128183}}}, bits=(1.06003288,))
    assert "another run" in said(audit(folder), "claims", "fail")  # the log is better than the claim and far from it
    (folder / "train_seed42_a_first_run.log").write_text(submission_folders.log(1.06128183))
    found = audit(folder)
    assert verdicts(found, "claims") == ["pass"] and found.runs[0].score.bits_per_byte == 1.06128183 and len(found.runs) == 1


def test_training_log_and_evaluation_log_of_a_seed_are_one_run(tmp_path):
    folder = write(tmp_path, seeds=(42,), claims={"val_bpb": BITS[0], "seed_results": {"42": BITS[0]}})
    text = (folder / "train_seed42.log").read_text()
    (folder / "train_seed42.log").write_text(text.replace("quantized_ttt", "pre-quantization post-ema").replace("1.08079352", "1.08530000"))
    (folder / "eval_seed42.log").write_text("seed: 42\nval_tokens: 40540160\n" + text.splitlines()[-2] + "\n" + text.splitlines()[-1])
    found = audit(folder)
    assert len(found.runs) == 1 and found.runs[0].log.file == "eval_seed42.log" and found.runs[0].first("total_bytes")[0] == 15_991_930


@pytest.mark.parametrize(
    "claims, verdict, word",
    [
        ({"val_bpb": 0.5}, "fail", "as a whole"),
        ({"val_bpb": "0.1234"}, "fail", "0.1234"),
        ({"val_bpb": "1.0810"}, "pass", "agrees"),
        (
            {"val_bpb": 1.081, "seed_results": {str(seed): {"val_bpb": bits} for seed, bits in zip((42, 314, 999), BITS, strict=True)}},
            "pass",
            "agrees",
        ),
        (
            {"val_bpb": 0.5, "seed_results": {str(seed): {"val_bpb": bits} for seed, bits in zip((42, 314, 999), BITS, strict=True)}},
            "fail",
            "0.5",
        ),
        ({"seed_results": {"0": {"val_bpb": 0.9}}}, "doubt", "no log has a score"),
        ({"seed_results": [{"seed": 42, "val_bpb": 0.9}]}, "fail", "another run"),
        ({"val_bpb": 1.09}, "doubt", "as a whole"),
        ({"val_bpb": 10**400}, "doubt", "can be believed"),
    ],
)
def test_claims_are_compared_as_a_whole_and_by_seed(claims, verdict, word, tmp_path):
    found = audit(write(tmp_path, claims=claims))
    assert verdict in verdicts(found, "claims") and word in said(found, "claims", verdict)


def test_claim_of_a_diagnostic_pass_is_named(tmp_path):
    line = "diagnostic pre-quantization post-ema val_loss:2.30000000 val_bpb:1.05312345 eval_time:7000ms"
    found = audit(write(tmp_path, before=line, claims={"seed_results": {"42": 1.05312345}}))
    assert "no score of the artifact" in said(found, "claims", "doubt")


def test_log_that_is_named_for_another_seed_is_said(tmp_path):
    folder = write(tmp_path)
    (folder / "train_seed42.log").rename(folder / "train_seed0.log")
    assert "named for seed 0 and says seed 42" in said(audit(folder), "claims", "doubt")


@pytest.mark.parametrize("bits, loss", [("nan", "nan"), ("0.00000000", "0.00000000"), ("inf", "inf")])
def test_last_score_that_is_no_number_is_a_fail(bits, loss, tmp_path):
    found = audit(write(tmp_path, after=f"final val_loss:{loss} val_bpb:{bits} eval_time:1000ms"))
    assert found.proved == ["score"] and "no score" in said(found, "score")


def test_score_below_what_text_can_have_and_score_with_few_digits(tmp_path):
    found = audit(write(tmp_path / "a", bits=(3.4e-07,), seeds=(42,)))
    assert found.proved == ["score"]
    found = audit(write(tmp_path / "b", bits=(0.3961,), seeds=(42,)))
    assert found.proved == [] and found.suggested == ["impossible score"]
    folder = write(tmp_path / "c", seeds=(42,), claims={"val_bpb": 1.0})
    text = (folder / "train_seed42.log").read_text().splitlines()
    (folder / "train_seed42.log").write_text("\n".join([*text[:-2], "quantized_ttt val_loss:3 val_bpb:1 eval_time:366525ms"]))
    assert verdicts(audit(folder), "bytes") == ["unknown"]


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({"size": 16_071_265, "script": "#" * 11_745}, ["fail"] * 3),
        ({"size": 16_002_000, "script": "#" * 11_745}, ["pass"] * 3),
        ({"size": 15_991_930, "script": "#" * 104_721}, ["doubt", "doubt", "doubt", "pass"]),
        ({"size": 15_991_930, "script": "#" * 16_594}, ["pass"]),
    ],
)
def test_size_is_also_that_of_the_script_as_it_lies_in_the_folder(changes, verdict, tmp_path):
    found = audit(write(tmp_path, **changes))
    assert verdicts(found, "size") == verdict
    if verdict == ["pass"] * 3:
        assert "its model of 15,985,406 bytes and the 11,745-byte train_gpt.py" in said(found, "size")


@pytest.mark.parametrize(
    "hardware, is_eight",
    [
        ("8xH100 80GB SXM", True),
        ("8×H100 SXM", True),
        ("8 x NVIDIA H100 80GB HBM3", True),
        ("H100 SXM5 x 8", True),
        ("NVIDIA H100 80GB HBM3 (8x)", None),
        ("eight H100", True),
        ("8 H100s", True),
        ("8 GPUs: H100", True),
        ("1xH100", False),
        ("8xA100", False),
        ("RTX 4090", False),
        ("a cluster", None),
        ("18xH100", None),
    ],
)
def test_hardware_is_recognised_in_its_spellings(hardware, is_eight):
    from stages.audit.submission.rules import times

    assert times.is_eight(hardware) is is_eight


@pytest.mark.parametrize(
    "place, claims, verdict",
    [
        ("track_10min_16mb", {}, "not legal"),
        ("track_10min_16mb", {"track": "10min_16mb"}, "not legal"),
        ("track_non_record_16mb", {}, "not ruled"),
        ("track_10min_16mb", {"track": "non_record_16mb"}, "not ruled"),
        ("records", {"track": "unlimited compute"}, "not ruled"),
    ],
)
def test_track_decides_which_limits_apply(place, claims, verdict, tmp_path):
    assert audit(write(tmp_path / place, train=7_763_400, claims=claims)).verdict == verdict
    assert audit(write(tmp_path / place / "large", size=16_500_000, claims=claims)).proved[:1] == ["size"]


@pytest.mark.parametrize(
    "other, kinds",
    [("ttt_chunk: 32", ["mixed configurations"]), ("ttt_chunk: 48.0", []), ("ttt_chunk: 48\nrun_id: b", []), ("ttt_chunk: 48", [])],
)
def test_seeds_of_different_settings_are_shown_with_their_lines(other, kinds, tmp_path):
    common = "\n".join(f"option_{number}: {number}" for number in range(9))
    found = audit(write(tmp_path, before=f"{common}\nttt_chunk: 48\nrun_id: a", each={314: {"before": f"{common}\n{other}"}}))
    assert found.suggested == kinds and found.proved == []
    if kinds:
        assert "48 (train_seed42.log, line 14), 32 (train_seed314.log, line 14)" in said(found, "seeds")


def test_logs_of_runs_that_are_not_claimed_are_context(tmp_path):
    """An ablation may be too large, too long and of another tokenizer."""
    folder = write(tmp_path)
    (folder / "ablation_seed7.log").write_text(
        submission_folders.log(1.2, seed=7, size=17_000_000, train=900_000, export="sp1024", ratio=1.3)
    )
    found = audit(folder)
    assert found.proved == [] and len(found.runs) == 4 and "a run that is not claimed" in said(found, "size", "doubt")
    (folder / "ablation_seed42.log").write_text(submission_folders.log(1.2, size=17_000_000, train=900_000))
    claims = '{"val_bpb": 1.081, "hardware": "8xH100", "seed_results": {"42": 1.08079352, "314": 1.08103103, "999": 1.08118408}}'
    (folder / "submission.json").write_text(claims)
    assert audit(folder).proved == []
    (folder / "train_seed42.log").unlink()
    assert set(audit(folder).proved) >= {"size", "claims", "training"}


def test_one_of_several_sizes_that_fits_is_enough_for_a_doubt(tmp_path):
    found = audit(write(tmp_path, after="Total submission size int8+zlib: 17200000 bytes"))
    assert found.proved == [] and "the log also states 15,991,930" in said(found, "size", "doubt")
    assert audit(write(tmp_path / "both", size=16_400_000, after="Total submission size int8+zlib: 17200000 bytes")).proved == ["size"]


def test_claimed_figure_that_stands_in_a_line_of_another_form_is_no_fail(tmp_path):
    found = audit(
        write(tmp_path, before="after the last phase we reach 1.05912345", claims={"seed_results": {"42": 1.05912345}, "val_bpb": 1.081})
    )
    assert "not read as a score" in said(found, "claims", "doubt") and found.proved == []


@pytest.mark.parametrize(
    "line, seconds",
    [
        ("x val_loss:2.0 val_bpb:1.0 eval_time:366525ms total_elapsed:1200.5s", 366.525),
        ("x val_bpb:1.0 train_time:588047ms eval_time:70.5s", 70.5),
        ("x val_bpb=1.0 elapsed=410.2s", 410.2),
        ("x val_bpb: 1.0 (70.5 s)", 70.5),
        ("x val_bpb: 1.0 train_time:588047ms step_avg:90.1ms", None),
        ("x: 1.0810 bpb in 70.5s", 70.5),
    ],
)
def test_seconds_of_a_pass_are_those_that_are_called_so(line, seconds):
    assert read(line).passes[0].seconds == (None if seconds is None else pytest.approx(seconds))


def test_copied_log_is_noticed(tmp_path):
    found = audit(write(tmp_path, bits=(BITS[0], BITS[0], BITS[2])))
    assert found.suggested == ["copied log"]


@pytest.mark.parametrize("count, doubts", [("151080891", 0), ("151,078,222", 0), ("164_590_000", 3), ("176332748", 3)])
def test_bytes_that_a_log_states_are_compared_with_the_split(count, doubts, tmp_path):
    found = audit(write(tmp_path, before=f"val_bytes: {count}"))
    assert verdicts(found, "bytes").count("doubt") == doubts


def test_long_rows_may_drop_more_at_the_end(tmp_path):
    folder = write(tmp_path, seeds=(42,), bits=(1.47025754,), claims={"val_bpb": 1.47025754})
    path = folder / "train_seed42.log"
    text = path.read_text().replace("val_tokens: 40540160", "val_tokens: 61997056\ntrain_seq_len: 32768")
    path.write_text(text.replace(f"val_loss:{submission_folders.nats(1.47025754):.8f}", "val_loss:2.48252747"))
    assert verdicts(audit(folder), "bytes") == ["pass"]


def test_large_log_is_read_at_both_ends_with_its_line_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "LOG_BYTES", 40_000)
    folder = write(
        tmp_path, seeds=(42,), claims={"val_bpb": BITS[0]}, before="\n".join(f"noise {number} " + "x" * 60 for number in range(3000))
    )
    found = audit(folder)
    assert found.runs[0].seed == 42 and found.runs[0].score.line == 3008 and verdicts(found, "claims") == ["pass"]


def test_a_setting_on_which_one_log_disagrees_is_not_the_run_s(tmp_path):
    """Three logs, and the last two agree with each other."""
    found = [
        SimpleNamespace(
            file=f"{n}.log", settings={"window_size": f"{n}", "num_layers": "3"}, setting_lines={"window_size": 1, "num_layers": 2}
        )
        for n in (1, 2, 2)
    ]
    values, places = texts._logged(SimpleNamespace(logs=found))
    assert values == {"num_layers": 3} and places["num_layers"] == ("2.log", 2)


def test_phases_come_in_the_order_of_the_log():
    """A set would have another order in every process, and the same folder another report."""
    names = [phases.COMPRESSION, phases.TRAINING, phases.CALIBRATION, phases.QUANTIZATION, phases.ADAPTATION, phases.GENERATED]
    timed = [phases.Timed(name, 1.0, line, "step", True) for line, name in enumerate(names * 2)]
    assert list(phases.totals(timed)) == names
