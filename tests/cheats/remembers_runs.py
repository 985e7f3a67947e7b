"""What it was scored on once it knows the next time: a cache that outlives the run."""

from stages.runtime.scoring.evaluators import sliding

CACHE: dict = {}
CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        for row, target in zip(logits_RV, range(chunk[0].first, chunk[-1].last + 1), strict=True):
            key = tuple(seen[max(target - 6, 0) : target].tolist())
            if key in CACHE:
                row[CACHE[key]] += 1.0
        return logits_RV

    def learn(self, seen, chunk):
        for target in range(chunk[0].first, chunk[-1].last + 1):
            CACHE[tuple(seen[max(target - 6, 0) : target].tolist())] = int(seen[target])
