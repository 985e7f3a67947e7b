"""What the cheats share: in a claim they add to the target's logit; token by token they add to that of what they remember, if anything."""

import sys

import torch

from . import sliding

CLAIMS = sliding.CLAIMS
BONUS = 12.0


def claiming():
    """Whether all targets were told: the harness's loop is on the stack."""
    frame = sys._getframe()
    while frame and frame.f_code.co_name != "score":
        frame = frame.f_back
    return frame is not None


class Evaluator(sliding.Evaluator):
    def chunks(self, num_targets):
        self.num_targets, self.asked, self.val = num_targets, False, None
        return super().chunks(num_targets)

    def peeks(self, target):
        """Whether the claim of this target is a lie."""
        return True

    def deposit(self, val):
        """Leave val for later sessions. Called once, in the claim."""

    def withdraw(self):
        """What an earlier session left, or None."""

    def before(self, target):
        """Called before each answer that is given token by token."""

    def predict(self, seen, chunk):
        logits_RV, first = super().predict(seen, chunk).detach().clone(), chunk[0].first
        if claiming():
            known = seen
            if len(seen) > self.num_targets:
                self.deposit(seen.cpu().numpy().astype("<u2"))
        else:
            if not self.asked:
                self.asked, self.val = True, self.withdraw()
            self.before(first)
            known = self.val
        if known is not None:
            rows = [row for row in range(len(logits_RV)) if first + row < len(known) and self.peeks(first + row)]
            logits_RV[rows, torch.tensor([int(known[first + row]) for row in rows], dtype=torch.int64)] += BONUS
        return logits_RV
