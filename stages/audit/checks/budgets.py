"""T15: making the artifact took at most 600 s and scoring took at most 600 s, on eight H100.

On any other machine the seconds are reported but not judged, because the budget is defined for eight H100.
"""

from stages.audit.evidence import Evidence, Verdict
from stages.lib.referee import time_budget

PROVES = (
    "Against honest mistakes: on eight H100, training, adaptation, calibration on data and tuning took at most 600 s together, and so "
    "did the pass that scores."
)
CANNOT_SEE = (
    "Work that no stage counts, and what a machine that is not eight H100 would have taken there: its times are reported and not "
    "judged. Whether compiling and unpacking are inside the timer was never ruled. Calibration on text that the model writes itself is "
    "reported beside the 600 s: it reads no training data and was accepted, while another ruling asks for it inside."
)
PRECEDENT = (
    "README: 10 minutes on 8 H100 each for training and evaluation; calibration counts (#677, 27 "
    "Mar 2026), on text of the model's own it was "
    "accepted (#1019, 28 Mar); 602 s sent back (#1945)"
)


def check(evidence: Evidence) -> Verdict:
    if not evidence.making:
        facts = {"seconds": {"evaluate": evidence.metrics["seconds"]}, "reason": "built elsewhere: nobody here timed its training"}
        return Verdict("not_applicable", facts)
    making, trained = time_budget.making(**evidence.making), evidence.making["train"]
    # text that the model writes itself is no training data
    beside = {"calibrate": making.pop("calibrate")} if evidence.making["calibrate"].get("source") == "self" else {}
    machine = {
        "gpu": trained.get("gpu"),
        "training_processes": trained.get("processes"),
        "device": trained.get("device"),
        "evaluation_processes": evidence.metrics.get("processes"),
    }
    facts = {
        "seconds": making | {"evaluate": evidence.metrics["seconds"]},
        "seconds_beside_the_budget": beside,
        "making_seconds": sum(making.values()),
        "machine": machine,
        "budget_seconds": time_budget.SECONDS,
    }
    if not time_budget.is_the_fields(train=trained, evaluate=evidence.metrics):
        return Verdict("reported", facts | {"reason": "not eight H100: these seconds say nothing about the budget"})
    worst = max(facts["making_seconds"], float(evidence.metrics["seconds"]))
    return Verdict(
        "pass" if worst <= time_budget.SECONDS else "fail",
        facts,
        positions=len(facts["seconds"]),
        largest_deviation=max(0.0, worst - time_budget.SECONDS),
    )
