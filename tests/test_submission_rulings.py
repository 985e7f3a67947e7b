"""For each ruling, a made-up folder that does the same: the reason that is found is the ruling's. For each disagreement between the
texts and the code of the last records, a folder in which it is shown."""

import pytest

from stages.audit.submission import rulings
from stages.audit.submission.folder import audit
from tests import pairs, submission_folders
from tests.submission_scripts import CALIBRATE, ETLB, FROM_VAL, LBFGS, LBFGS_CALL, PREQUANT, PREQUANT_CALL, SCRIPTS, SLOT, program

WRONG = {pair.kind: pair.wrong for pair in pairs.SHOWN}
BATCHED_ETLB = """
def eval_etlb(model, val_data, batches, batch_seqs):
    for x, y in batches:
        for _ in range(5):
            grad = (softmax(model(x) + bias) - one_hot(y)).mean(0)
            bias = bias - lr * grad
        loss_sum += F.cross_entropy(model(x) + bias, y)
"""
BYTE_GATE = """
def eval_ppm(val_tokens, target_bytes, nll, ppm):
    gate = confidence[target_bytes]
    return gate * nll + (1 - gate) * ppm
"""
NESTED = """
def eval_nested(val_tokens, nll, target_bytes, ppm, lam):
    byte_logp = nll / len(target_bytes)
    return np.logaddexp(np.log(lam) + byte_logp, np.log(1 - lam) + ppm.byte_logp)
"""
ADAPTS = "prequant_ttt:done elapsed=172.0s"
ONE = {"seeds": (42,), "bits": (1.0810,)}
REPLICAS = {  # pull request: what its folder has
    44: {"script": WRONG["trains on val"]},
    659: {"script": WRONG["best of several"]},
    728: {"script": WRONG["val in calibration"]},
    779: {"script": SCRIPTS["hashed n-grams"][0]},
    846: {"script": WRONG["two passes"]},
    959: {"script": WRONG["two passes"], "bits": (3.4e-07,), "seeds": (42,)},
    972: {"script": WRONG["target in hash"]},
    982: {"train": 600_050, "before": "GPTQ:collected 67 Hessians in 46.0s"},
    991: {"script": WRONG["scored again"]},
    993: {"script": WRONG["target in hash"]},
    **{number: {"script": SCRIPTS["SLOT"][0]} for number in (1084, 1128, 1150, 1172, 1176)},
    **{number: {"ratio": 1.0413} for number in (1143, 1184)},
    1217: {"script": SCRIPTS["context-only SLOT, shared"][0]},
    **{number: {"script": SCRIPTS["SLOT for each window"][0]} for number in (1229, 1319, 1430)},
    1306: {
        "script": program(
            PREQUANT + SLOT.replace("{shape}", "1, 1, 512").replace("{objective}", "(nll * context_mask).sum()"), before=PREQUANT_CALL
        )
    },
    1318: {"script": program(LBFGS + CALIBRATE, before=FROM_VAL, after=LBFGS_CALL)},
    1333: {"script": SCRIPTS["context-only SLOT, shared"][0]},
    1350: {"script": SCRIPTS["L-BFGS"][0]},
    1372: {"script": SCRIPTS["L-BFGS"][0]},
    1376: {"before": ADAPTS},
    1399: {"script": program(PREQUANT + ETLB, before=PREQUANT_CALL), "size": 16_084_685, "seconds": 1167.5},
    1415: {"script": BATCHED_ETLB},
    **{number: {"before": "pre_quant_ttt:done epochs=1 total_time=112.5s"} for number in (1416, 1485, 1487, 1488)},
    1420: {"script": WRONG["target in gate"]},
    1437: {"script": WRONG["target in gate"]},
    1698: {"ratio": 1.1671},
    1734: {"ratio": 1.1770},
    1785: {"script": BYTE_GATE},
    1797: {"readme": "BOS-fixed SmearGate on 8xH100", "before": "smear_gate_bos_fix: False"},
    1809: {"size": 16_000_001},
    **{number: {"script": WRONG["byte mixture"]} for number in (1835, 1850, 2098)},
    **{number: {"before": "prequant_ttt:done total_time=230.7s"} for number in (1911, 1958)},
    1967: {"script": WRONG["target in gate"]},
    1972: {"before": ADAPTS, "seconds": 688.0},
    2018: {"shards": 1499},
    2039: {"script": NESTED},
    2118: {"script": WRONG["target in gate"]},
    2124: {
        "each": {314: {"before": "\n".join(f"option_{i}: {i + 1}" for i in range(9)) + "\nttt_chunk: 32"}},
        "before": "\n".join(f"option_{i}: {i + 1}" for i in range(9)) + "\nttt_chunk: 48",
    },
    2130: {"shards": 1499},
    2138: {"ratio": 1.0895, "export": "caseops"},
    2140: {"script": WRONG["two orders"]},
}


def test_every_ruling_against_a_submission_has_a_replica():
    against = {row.pull_request for row in rulings.table().values() if row.state != "accepted" and row.reason}
    assert against == set(REPLICAS) and len(rulings.table()) >= 75
    assert all(row.source and row.text and (row.date[:5] == "2026-" or not row.date) for row in rulings.table().values())
    assert {row.state for row in rulings.table().values()} == {"accepted", "excluded", "withdrawn", "never merged"}


@pytest.mark.parametrize("number", REPLICAS)
def test_reason_that_is_found_is_the_reason_of_the_ruling(number, tmp_path):
    found = audit(submission_folders.write(tmp_path, **REPLICAS[number]), pull_request=number)
    assert found.reason_found is True, (found.ruling, found.proved, found.suggested)
    assert found.verdict == ("not legal" if found.proved else found.ruling.state)


def test_clean_folder_shows_none_of_these_reasons(tmp_path):
    found = audit(submission_folders.write(tmp_path, script=SCRIPTS["score-first TTT"][0]), pull_request=1376)
    assert found.reason_found is False and found.proved == [] and found.suggested == []


def test_accepted_record_stays_accepted_and_what_breaks_the_strict_rule_is_said(tmp_path):
    found = audit(submission_folders.write(tmp_path, train=640_000, script=WRONG["two orders"]), pull_request=2135)
    assert found.verdict == "accepted; by the strict rule: training, two orders"
    assert audit(submission_folders.write(tmp_path / "clean"), pull_request=2135).verdict == "accepted"
    assert audit(submission_folders.write(tmp_path / "unknown", train=640_000)).verdict == "not legal"


@pytest.mark.parametrize(
    "folder, claims, given, number",
    [
        ("2026-04-29_SmearGateBOSFix_3Seed", {}, None, 1868),
        ("2026-04-18_PR1626_CaseOps_Taper", {}, None, 1729),
        ("pr1855", {}, None, 1855),
        ("2026-05-01_Ours", {"pull_request": 2014}, None, 2014),
        ("2026-05-01_Ours", {"pr_url": "https://github.com/openai/parameter-golf/pull/1953"}, None, 1953),
        ("2026-05-01_Ours", {"pull_request": 2014}, 1855, 1855),
        ("2026-05-01_PR1855_Plus", {"comparison_baseline_pr": 1855}, None, None),
        ("2026-05-01_Ours", {"pull_request": True}, None, None),
    ],
)
def test_pull_request_is_the_one_that_is_named_and_not_the_one_that_is_built_on(folder, claims, given, number, tmp_path):
    found = audit(submission_folders.write(tmp_path, name=folder, claims=claims), pull_request=given)
    assert found.pull_request == number


CAPS = """
class GPT(nn.Module):
    def __init__(self, h):
        self.softcap_pos = nn.Parameter(torch.tensor(30.0))
    def forward(self, x, y):
        return softcapped_cross_entropy(self.hidden(x), y, 30.0)
    def forward_ttt(self, x, y, lora):
        return cap(self.hidden(x), self.softcap_pos)
"""
QUEUE = """
def phase(h, docs, scored):
    queue = list(reversed(sorted(docs, key=length)))
    serve(queue)
    scored.sort(key=lambda entry: (entry.batch, entry.row))
    return scored[: h.prefix_docs]
"""
CHUNKS = (
    "def chunk_of(batch, h):\n    longest = max(batch)\n    chunk = 8 if longest <= 256 else 24 if "
    "longest <= 2000 else 48\n    return chunk\n"
)
OPTIONS = (
    "class Hyperparameters:\n    smear_scale = float(os.environ.get('SMEAR_SCALE', 0.5))\n    "
    "shape_warmup = int(os.environ.get('SHAPE_WARMUP', 0))\n"
)
DISAGREEMENTS = {
    "1: caps that are said to be learned": ({"readme": "Learned asymmetric logit caps. 8xH100", "script": CAPS}, "texts", "no gradient"),
    "2: experts that cannot fire": (
        {"before": "word_ngram_threshold: 99.0\nwithin_boost: 0.0\nngram_hint build done in 197.7s"},
        "texts",
        "can never fire",
    ),
    "3: the longest documents are dropped": ({"script": QUEUE}, "hint", "the longest are dropped"),
    "4: the mask at document starts": (
        {"readme": "BOS-fixed SmearGate.\n```\nSMEAR_GATE_BOS_FIX=0 torchrun train_gpt.py\n```\n8xH100"},
        "documents",
        "SMEAR_GATE_BOS_FIX=0",
    ),
    "5: knobs that were not taken": (
        {"readme": "lqer_rank 2 and lqer_top_k 4 on 8xH100", "before": "lqer_rank: 4\nlqer_top_k: 3"},
        "texts",
        "lqer_rank 2",
    ),
    "6: what AWQ chose": (
        {"readme": "AWQ-lite: int8 columns. 8xH100", "before": "awq_lite: protected group tok_emb.weight[64:128] bits=8"},
        "texts",
        "embedding",
    ),
    "7: chunks by the length of the document": ({"script": CHUNKS}, "hint", "a decoder does not know"),
    "7: a warm-up that only the log has": (
        {"readme": "8xH100\n```\nSEED=42 torchrun train_gpt.py\n```", "script": OPTIONS, "before": "shape_warmup: 1"},
        "texts",
        "the launch line does not set it",
    ),
    "8: a warm-up without the hints": (
        {
            "script": "def run(h, model, val_tokens):\n    for bsz in sizes:  # compile warm_up_ttt\n        "
            "model.forward_ttt(xw, yw)\n    for x, y in batches:\n        model.forward_ttt(x, y, "
            "hints=hints)\n"
        },
        "hint",
        "without hints",
    ),
    "9: a later version": ({"claims": {"val_bpb": 1.05877}}, "texts", "1.05943 was accepted"),
    "13: a default that is another": (
        {"readme": "smear_scale (default 0.25) on 8xH100", "script": OPTIONS, "before": "smear_scale: 0.0"},
        "texts",
        "the code's default is 0.5",
    ),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_disagreement_of_the_last_records_is_shown(case, tmp_path):
    changes, check, word = DISAGREEMENTS[case]
    found = audit(submission_folders.write(tmp_path, **changes), pull_request=1945)
    said = (
        [hint.text for hint in found.hints] if check == "hint" else [finding.text for finding in found.findings if finding.check == check]
    )
    assert any(word in text for text in said), (said, [hint for hint in found.hints])


AGREEMENTS = {
    "caps in the training loss": {"readme": "Learned logit caps. 8xH100", "script": CAPS.replace("y, 30.0)", "y, self.softcap_pos)")},
    "experts that fire": {"before": "word_ngram_threshold: 0.8\nwithin_boost: 0.75"},
    "the mask is on": {
        "readme": "BOS-fixed SmearGate.\n```\nSMEAR_GATE_BOS_FIX=1 torchrun train_gpt.py\n```\n8xH100",
        "before": "smear_gate_bos_fix: True",
    },
    "the knobs of the README": {"readme": "lqer_rank 4 and lqer_top_k 3 on 8xH100", "before": "lqer_rank: 4\nlqer_top_k: 3"},
    "chunks by position": {
        "script": "def chunk_at(position):\n    chunk = 8 if position < 256 else 24 if position < 2000 else 48\n    return chunk\n"
    },
    "the launch line sets it": {
        "readme": "8xH100\n```\nSHAPE_WARMUP=1 torchrun train_gpt.py\n```",
        "script": OPTIONS,
        "before": "shape_warmup: 1",
    },
}


@pytest.mark.parametrize("case", AGREEMENTS)
def test_texts_that_agree_raise_no_doubt(case, tmp_path):
    found = audit(submission_folders.write(tmp_path, **AGREEMENTS[case]))
    assert [finding for finding in found.findings if finding.check in ("texts", "documents")] == []
    assert not [hint for hint in found.hints if hint.against]
