"""Says that documents are apart and lets the last token of one reach into the next (#1797)."""

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "documents_apart"


CLAIMS = ("causal", "score_first", "single_pass", "documents_apart")
OPTIONS = {"reset_at": 1}


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk).detach()
        for row, target in zip(logits_RV, range(chunk[0].first, chunk[-1].last + 1), strict=True):
            if target > 1 and seen[target - 1] == 1:
                row[seen[target - 2]] += 0.5
        return logits_RV
