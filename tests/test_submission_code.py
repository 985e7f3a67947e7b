"""What the code of a submission is said to do: wrong code is found, its honest neighbour is not, and whole scripts are read alike."""

import zipfile

import pytest
import python_minifier

from stages.audit.code import reading, settings, syntax, unpack
from stages.audit.submission.folder import audit
from tests import cheats, pairs
from tests.code_cases import MORE
from tests.submission_folders import write
from tests.submission_scripts import PREQUANT, PREQUANT_SWITCH, SCRIPTS, TTT, TTT_CALL, program


def kinds(source, known=None, *, language="python"):
    tree, why = syntax.parse(source, language)
    assert tree is not None, why
    return {hint.kind for hint in reading.hints("train_gpt.py", tree, known, language) if hint.against}


@pytest.mark.parametrize("pair", pairs.SHOWN, ids=lambda pair: pair.kind)
def test_wrong_code_is_found_and_right_code_is_not(pair):
    assert pair.kind in kinds(pair.wrong) and kinds(pair.right) == set()


def test_the_page_is_made_from_the_pairs():
    assert pairs.PAGE.read_text(encoding="utf-8") == pairs.page(), "python -m tests.pairs --write"
    assert {pair.cheat for pair in pairs.SHOWN} - {""} <= set(cheats.names())


@pytest.mark.parametrize("number", range(len(MORE)), ids=lambda number: f"{MORE[number][0]}, {MORE[number][1]}")
def test_every_form_of_a_kind_is_found_and_its_neighbours_are_not(number):
    kind, is_wrong, source = MORE[number]
    found = kinds(source)
    assert kind in found if is_wrong else found == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_whole_script_is_accused_of_what_it_does_and_of_nothing_else(name):
    source, expected = SCRIPTS[name]
    assert kinds(source) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - {"ETLB", "context-only SLOT, shared", "context-only SLOT for each window"}))
def test_names_that_a_minifier_takes_away_are_not_needed(name):
    """Except for one thing: that an objective ends before the score, which only a name or a bound tells."""
    source, expected = SCRIPTS[name]
    assert kinds(python_minifier.minify(source, rename_locals=True)) == expected


@pytest.mark.parametrize(
    "known",
    [
        settings.Settings(settings.of_launch_lines("PREQUANT_TTT_ENABLED=1 SEED=42 torchrun --nproc_per_node=8 train_gpt.py")),
        settings.Settings({"PREQUANT_TTT_ENABLED": "0"}, {"prequant_ttt_enabled": "True"}),
    ],
    ids=["launch line", "log"],
)
def test_switch_is_on_if_the_launch_line_or_the_log_says_so(known):
    source = program(PREQUANT + TTT, before=PREQUANT_SWITCH, after=TTT_CALL)
    assert kinds(source) == set() and kinds(source, known) == {"trains on val"}


def test_what_is_right_is_named_as_what_it_is():
    def named(name):
        tree, _ = syntax.parse(SCRIPTS[name][0])
        return {hint.kind for hint in reading.hints("train_gpt.py", tree)}

    assert named("naive") == {"training loop"} and named("score-first TTT") == {"training loop", "score first"}
    assert named("phased LoRA-TTT") == {"training loop", "score first", "warm-up"}
    assert "warm-up on val" in named("phased LoRA-TTT that warms up on val") and "context only" in named("ETLB")


PEP_701 = 'def eval_val(val_data, x):\n\tfor cat in x: log(f"  {cat}: {", ".join(sorted(x[cat]))}")\n\tmodel(val_data).backward()\n'


def test_newer_python_is_read_whatever_python_reads_it():
    tree, _ = syntax.parse(PEP_701)
    assert syntax.broken(tree) is None and kinds(PEP_701) == {"trains on val"}


HASHED = """
float lookup(const uint32_t* full_table, const uint32_t* ctx_table, uint64_t ctx, int target) {
    uint64_t h = ctx;
    h ^= (uint64_t)target * 1000003ULL;
    return full_table[h & MASK] / (float)ctx_table[ctx & MASK];
}
"""
COUNTED = """
void push(uint32_t* pair_counts, uint64_t key, int target) {
    uint64_t pair = (key * 1000003ULL) ^ (uint64_t)target;
    pair_counts[pair & MASK]++;
}
"""
GATED = """
void hints(const int* tokens, const bool* starts_word, float* within_hint, long n) {
    for (long i = 0; i < n; i++) {
        int tok = tokens[i];
        if (!starts_word[tok]) within_hint[i] = best[i];
    }
}
"""
BY_PREFIX = """
void hints(const int* tokens, float* hint, long n) {
    for (long i = 1; i < n; i++) {
        if (confidence[tokens[i - 1]] > 0.8f) hint[i] = best[tokens[i - 1]];
    }
}
"""


@pytest.mark.parametrize(
    "language, source, expected",
    [
        ("cuda", HASHED, {"target in hash"}),
        ("cuda", COUNTED, set()),
        ("cuda", GATED, {"target in gate"}),
        ("cuda", BY_PREFIX, set()),
        ("cuda", "__global__ void add(float* a, const float* b) { int i = threadIdx.x; a[i] += b[i]; }", set()),
        ("bash", "export TRAIN_FILES=./data/fineweb_val_*.bin\ntorchrun train_gpt.py\n", {"trains on val"}),
        ("bash", "export TRAIN_FILES=./data/fineweb_train_*.bin VAL_FILES=./data/fineweb_val_*.bin\ntorchrun train_gpt.py\n", set()),
    ],
)
def test_other_languages_are_read_too(language, source, expected):
    assert kinds(source, language=language) == expected


def test_archives_are_read_and_what_cannot_be_read_is_listed(tmp_path):
    folder = write(tmp_path, files={"kernel.cu": HASHED, "native.so": "x", "loader.rs": "fn main() {}"})
    with zipfile.ZipFile(folder / "submission.pyz", "w") as archive:
        archive.writestr("package/eval.py", SCRIPTS["SLOT"][0])
    found = audit(folder)
    assert set(found.suggested) == {"target in hash", "adapts first", "batch-shared"}
    assert {"kernel.cu", "submission.pyz > package/eval.py"} <= set(found.read)
    assert any("loader.rs, native.so" in finding.text for finding in found.findings)


def test_name_of_another_function_is_no_constant():
    _, unread = unpack.layers("a.py", "import lzma\ndef d(blob):\n    return lzma.decompress(blob)\ndef other():\n    blob = b''\n")
    assert unread == []


def test_deep_and_large_sources_end():
    deep = "def f(val_tokens):\n" + "".join("    " * (i + 1) + "for a in b:\n" for i in range(60)) + "    " * 61 + "loss_sum += nll\n"
    calls = (
        "".join(f"def f{i}(val_tokens):\n    f{i + 1}(val_tokens)\n    f{i + 1}(val_tokens[1:])\n" for i in range(40)) + "f0(val_tokens)\n"
    )
    for source in (deep, calls, "x = " + "-" * 50_000 + "1\n", "x = " + "(" * 300 + "1" + ")" * 300 + "\ny = 2\n"):
        tree, _ = syntax.parse(source)
        assert tree is None or reading.hints("a.py", tree) is not None
