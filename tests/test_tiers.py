"""Two tiers: `make test` leaves out what is slow, and still touches every claim."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CAMPAIGNS = ("recipes", "large", "referee")  # targets of their own: in neither tier
CLAIMS = {  # a claim, and the test that `make test` has for it
    "a killed training resumes to the same bytes": "test_training.py::test_killed_training_continues_to_the_same_bytes",
    "several processes train as one does": "test_training.py::test_several_processes_train_as_one_does",
    "the same parameters give the same bytes": "test_stages.py::test_whole_pipeline_beside_itself_gives_the_same_bytes",
    "results of several workers come in order": "test_parallel.py::test_results_come_in_order_and_an_error_in_its_turn",
    "the one script is the pipeline to the bit": "test_one_script.py::test_script_gives_the_blob_and_the_score_of_the_pipeline_to_the_bit",
    "a model comes back from its blob": "test_stacks.py::test_quantized_stack_comes_back_with_its_features",
    "every codec and coder is reversible": "test_codecs.py::test_decode_is_the_inverse_of_encode",
    "every blob of the format decodes": "test_golden.py::test_golden_blob_has_the_content_that_was_coded",
    "coded weights are the same to the byte": "test_covariance.py::test_the_golden_blobs_decode_and_are_made_again_byte_for_byte",
    "the machine does not change a coded bit": "test_covariance.py::test_threads_kernels_and_vector_units_do_not_change_a_bit",
    "hostile blobs end in a sentence": "attacks/test_attacks.py::test_mutated_blobs_are_refused_or_the_same",
    "a bomb is refused": "attacks/test_attacks.py::test_bomb_is_refused_without_the_memory_it_asks_for",
    "the artifact scores alone": "test_package.py::test_artifact_scores_alone_in_an_empty_folder_and_agrees_with_the_pipeline",
    "the artifact compresses and gives back": "test_package.py::test_artifact_compresses_a_file_and_gives_it_back",
    "the cap is exact": "test_package.py::test_cap_is_exact_to_the_byte_and_what_is_over_it_is_packed_all_the_same",
    "causal evaluators ignore the future": "test_evaluators.py::"
    "test_evaluator_that_claims_to_be_causal_ignores_the_target_and_all_after_it",
    "an honest evaluator is certified": "test_audit.py::test_honest_evaluator_is_certified",
    "the memory is its formulas": "test_memory.py::test_memory_is_the_formulas_written_plainly",
    "SLOT is refused": "test_audit.py::test_slot_is_refused_because_it_knows_what_it_scores",
    "every cheat is caught by its check": "test_cheats.py::test_cheat_is_caught_by_the_check_that_is_there_for_it",
    "an honest evaluator raises no alarm": "test_cheats.py::test_honest_evaluator_raises_no_alarm",
    "an artifact learns nothing but from its pipes": "test_jail.py::test_jail_shows_nothing_of_this_machine_and_lets_nothing_out",
    "a program from elsewhere learns no more": "test_outside.py::test_program_from_elsewhere_sees_itself_and_nothing_of_this_machine",
    "the certified limit is true as often as it says": "test_bound.py::test_truth_is_above_the_limit_at_most_as_often_as_it_says",
    "every target comes back from its code": "test_certify.py::test_every_target_comes_back_from_as_many_bits_as_were_claimed",
    "a submission is read without running it": "test_submission_audit.py::test_packed_script_is_read_without_running_it",
    "wrong code is found and its honest neighbour is not": "test_submission_code.py::test_wrong_code_is_found_and_right_code_is_not",
    "a folder that means harm ends soon": "test_submission_hostile.py::test_hostile_script_ends_soon_and_leaves_the_rest_of_the_folder",
    "lineage flags val that is declared": "test_lineage.py::test_stage_that_declares_val_is_named_with_the_path",
    "lineage flags val that is opened": "test_lineage.py::test_stage_that_opens_val_behind_the_declaration_is_caught",
    "DVC reruns what changed": "test_dvc.py::test_changed_leaf_makes_its_readers_stale_and_nothing_else",
    "nothing that trains is below val": "test_dvc.py::test_nothing_that_trains_is_below_val",
    "a killed make gpu keeps what it measured": "test_gpu_run.py::test_killed_after_a_part_the_file_keeps_it_and_the_next_run_skips_it",
    "a stack compiles to one graph": "test_stacks.py::test_stack_compiles_to_one_graph_before_and_after_its_recurrence_starts",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_has_a_test_that_is_not_slow(request, claim):
    name = f"tests/{CLAIMS[claim]}"
    items = request.session.items
    if request.config.option.keyword or not any(item.nodeid.startswith(f"{name.partition('::')[0]}::") for item in items):
        pytest.skip("only a part of the suite was asked for")
    assert [item for item in items if item.nodeid.split("[")[0] == name and not item.get_closest_marker("slow")], (
        f"{claim}: {name} is gone, or all its cases are slow; leave one of them to `make test`, or name another test here"
    )


def test_targets_leave_out_what_they_say():
    """`make test` is what pytest does by itself, `make test-all` and what .ci/run does after it leave out the campaigns alone."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    without = " and ".join(f"not {campaign}" for campaign in CAMPAIGNS)
    assert f"-m 'not slow and {without}'" in options["addopts"]
    assert "\ntest: setup\n\tpython -m pytest\n" in makefile
    assert f"\ntest-all: setup\n\tpython -m pytest -m '{without}'\n" in makefile
    steps = re.findall(r"^(make|python -m pytest|dvc) ?(.*)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert steps == [("make", "test"), ("make", "lint"), ("python -m pytest", f"-m 'slow and {without}'"), ("dvc", "repro")]
