"""For each kind that the referee reads in code: wrong code, and right code that does nearly the same. They are never run.

    python -m tests.pairs --write        writes docs/wrong-and-right.md from this file; a test compares

`SHOWN` are the pairs of that page; tests/code_cases.py has further cases of each kind.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "wrong-and-right.md"


@dataclass(frozen=True)
class Pair:
    """`why` is why the wrong form is no score, `ruling` who said so, `cheat` the cheat of tests/cheats with the same leak."""

    kind: str
    why: str
    ruling: str
    wrong: str
    right: str
    difference: str
    cheat: str = ""


SHOWN = (
    Pair(
        "adapts first",
        "A decoder cannot rebuild the delta before it knows the tokens that the delta was fitted to.",
        "SLOT (#1084 to #1430): no organizer ruled, none was merged; conditions C1 and C3 of Issue #1017, proof in #1240.",
        """
def eval_slot(model, val_tokens, starts):
    loss_sum = 0.0
    for start in starts:
        window = val_tokens[start : start + 2049]
        x, y = window[:-1], window[1:]
        delta = torch.zeros(1, 1, 512, requires_grad=True)
        optimizer = torch.optim.AdamW([delta], lr=0.005)
        for _ in range(8):
            loss = F.cross_entropy(model(x, delta), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_sum += F.cross_entropy(model(x, delta)[-64:], y[-64:], reduction="sum")
    return loss_sum
""",
        """
def eval_ttt(model, val_tokens, starts):
    loss_sum = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    for start in starts:
        window = val_tokens[start : start + 2049]
        x, y = window[:-1], window[1:]
        loss_sum += F.cross_entropy(model(x), y, reduction="sum").detach()
        for _ in range(3):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss_sum
""",
        "The right form adds the score of a window to the sum first, and only then learns the window.",
        "fits_on_what_it_scores",
    ),
    Pair(
        "trains on val",
        "The artifact then holds the text that it is scored on.",
        "README, 20 March 2026; adaptation before quantization: #1376 (10 April), #1972 (cocohearts, 2 May 2026).",
        """
def main(args, model, train_loader, val_tokens):
    for step in range(args.iterations):
        x, y = train_loader.next_batch()
        model(x, y).backward()
        optimizer.step()
    for epoch in range(6):
        for start in range(0, len(val_tokens), 2048):
            x, y = val_tokens[start : start + 2048], val_tokens[start + 1 : start + 2049]
            model(x, y).backward()
            adapter.step()
    quantize(model)
    print(eval_val(model, val_tokens))
""",
        """
def main(args, model, train_loader, held_out_train_tokens, val_tokens):
    for step in range(args.iterations):
        x, y = train_loader.next_batch()
        model(x, y).backward()
        optimizer.step()
    for epoch in range(6):
        for start in range(0, len(held_out_train_tokens), 2048):
            x, y = held_out_train_tokens[start : start + 2048], held_out_train_tokens[start + 1 : start + 2049]
            model(x, y).backward()
            adapter.step()
    quantize(model)
    print(eval_val(model, val_tokens))
""",
        "The right form adapts on a part of the training split, within the 600 s of training.",
        "",
    ),
    Pair(
        "scored again",
        "What is reported is the score of tokens that were learned in the repetition before.",
        "Issue #677 (25 March 2026): several epochs that report the last one; #991 closed on 28 March.",
        """
def eval_ttt(model, val_tokens, chunks, optimizer):
    for epoch in range(3):
        loss_sum = 0.0
        for start in chunks:
            x, y = val_tokens[start : start + 2048], val_tokens[start + 1 : start + 2049]
            loss = F.cross_entropy(model(x), y)
            loss_sum += loss.detach()
            loss.backward()
            optimizer.step()
    return loss_sum
""",
        """
def eval_ttt(model, val_tokens, chunks, optimizer):
    loss_sum = 0.0
    for start in chunks:
        x, y = val_tokens[start : start + 2048], val_tokens[start + 1 : start + 2049]
        loss_sum += F.cross_entropy(model(x), y).detach()
        for epoch in range(3):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
    return loss_sum
""",
        "In the right form the repetitions stand inside the loop over chunks, behind the one score of the chunk.",
        "two_passes",
    ),
    Pair(
        "two passes",
        "The first token is scored with counts of tokens that come after it.",
        "valerio-oai, 27 March 2026, on #846 to #959: two-pass rescoring is training on the evaluation data.",
        """
def eval_ngram(model, val_tokens):
    counts = np.zeros((BUCKETS, VOCAB))
    for i in range(1, len(val_tokens)):
        counts[context_hash(val_tokens, i), val_tokens[i]] += 1
    loss_sum = 0.0
    for i in range(1, len(val_tokens)):
        row = counts[context_hash(val_tokens, i)] + prior
        p = mix(model, val_tokens[:i], row / row.sum())
        nll = -np.log(p[val_tokens[i]])
        loss_sum += nll
    return loss_sum
""",
        """
def eval_ngram(model, val_tokens):
    counts = np.zeros((BUCKETS, VOCAB))
    loss_sum = 0.0
    for i in range(1, len(val_tokens)):
        row = counts[context_hash(val_tokens, i)] + prior
        p = mix(model, val_tokens[:i], row / row.sum())
        nll = -np.log(p[val_tokens[i]])
        loss_sum += nll
        counts[context_hash(val_tokens, i), val_tokens[i]] += 1
    return loss_sum
""",
        "The right form counts a token after it was scored, in the same loop, and the row is a distribution over all tokens.",
        "two_passes",
    ),
    Pair(
        "target in hash",
        "The table is asked for the realized token alone; over all tokens its answers do not sum to one (277 and more were measured).",
        "valerio-oai, 27 March 2026 (#677, #779, #982).",
        """
def eval_cache(val_np, positions):
    tgt = val_np[positions + 1]
    h = np.zeros(len(positions), np.uint64)
    for k in range(4):
        h ^= val_np[positions - k] * PRIMES[k]
    full_key = (h ^ (tgt * PRIMES[4])) & MASK
    return full_table[full_key] / np.maximum(context_table[h & MASK], 1)
""",
        """
def eval_cache(val_np, positions):
    h = np.zeros(len(positions), np.uint64)
    for k in range(4):
        h ^= val_np[positions - k] * PRIMES[k]
    rows = counts[h & MASK] + prior
    return rows / rows.sum(-1, keepdims=True)
""",
        "The right form looks up a whole row with the context alone, and normalizes it.",
        "hashed_cache",
    ),
    Pair(
        "target in gate",
        "Whether the target begins a word is known only with the target: the gate gives away 1 to 2 bits.",
        "cocohearts, 2 May 2026 (#1420, #2118, #2130).",
        """
def tilt(val_tokens, targets, logp, hints):
    within_gate = ~starts_word[targets]
    boost = torch.where(within_gate, BETA, 0.0)
    return boost * (hints == targets)
""",
        """
def tilt(val_tokens, previous, targets, logp, hints):
    token_gate = confidence[previous] > 0.8
    boost = torch.where(token_gate, BETA, 0.0)
    p_hint = logp.gather(-1, hints[:, None]).exp().squeeze(-1)
    return boost * (hints == targets) - torch.log1p(p_hint * torch.expm1(boost))
""",
        "The right form decides by the prefix, and subtracts the logarithm of the normalizer for every token.",
        "word_gate_tilt",
    ),
    Pair(
        "best of several",
        "Which of the two was smaller is known only with the target; a decoder would have to be told.",
        "valerio-oai on #659, 24 to 25 March 2026.",
        """
def eval_two(model, other, val_tokens, x, y):
    nll_one = F.cross_entropy(model(x), y, reduction="none")
    nll_two = F.cross_entropy(other(x), y, reduction="none")
    return torch.minimum(nll_one, nll_two).sum()
""",
        """
def eval_two(model, other, val_tokens, x, y):
    logp_one = F.log_softmax(model(x), -1)
    logp_two = F.log_softmax(other(x), -1)
    mixed = torch.logaddexp(logp_one + math.log(0.5), logp_two + math.log(0.5))
    return F.nll_loss(mixed, y, reduction="sum")
""",
        "The right form mixes the two distributions with weights that do not depend on the target.",
        "best_of_passes",
    ),
    Pair(
        "byte mixture",
        "The n-th root of a token's probability is no probability of a byte, so the mixture is no distribution over tokens.",
        "cocohearts, 28 to 29 April 2026 (#1902): byte-level PPM mixtures are out; #1905 measured the true form as worse.",
        """
def eval_ppm(val_tokens, nll, pieces, ppm, lam):
    total = 0.0
    for t in range(len(val_tokens)):
        token_bytes = pieces[val_tokens[t]]
        n_bytes = len(token_bytes)
        byte_logp = -nll[t] / n_bytes
        for byte in token_bytes:
            total -= math.log(lam * math.exp(byte_logp) + (1 - lam) * ppm.prob(byte))
            ppm.update(byte)
    return total
""",
        """
def eval_ppm(val_tokens, logp_rows, ppm, lam):
    total = 0.0
    for t in range(len(val_tokens)):
        token_logp = ppm.log_prob_of_every_token()
        mixed = np.logaddexp(math.log(lam) + logp_rows[t], math.log(1 - lam) + token_logp)
        total -= mixed[val_tokens[t]]
        ppm.update_token(val_tokens[t])
    return total
""",
        "The right form gives every token a probability under PPM, with the end of the token, and mixes distributions over tokens.",
        "byte_mixture",
    ),
    Pair(
        "batch-shared",
        "Windows of a batch overlap: the context of one holds the targets of another, so the shared parameter has seen them.",
        "Context-only SLOT (#1217, #1306, #1333), L-BFGS (#1350, #1372), batched ETLB (#1415): condition C1; no organizer ruled.",
        """
def eval_slot(model, val_tokens, batches, bsz):
    loss_sum = 0.0
    for x, y, first in batches:
        delta = torch.zeros(1, 1, 512, requires_grad=True)
        optimizer = torch.optim.AdamW([delta], lr=0.005)
        for _ in range(8):
            nll = F.cross_entropy(model(x, delta), y, reduction="none")
            context_loss = (nll * context_mask).sum()
            context_loss.backward()
            optimizer.step()
        loss_sum += F.cross_entropy(model(x, delta)[:, first:], y[:, first:], reduction="sum")
    return loss_sum
""",
        """
def eval_slot(model, val_tokens, batches, bsz):
    loss_sum = 0.0
    for x, y, first in batches:
        delta = torch.zeros(bsz, 1, 512, requires_grad=True)
        optimizer = torch.optim.AdamW([delta], lr=0.005)
        for _ in range(8):
            nll = F.cross_entropy(model(x, delta), y, reduction="none")
            context_loss = (nll * context_mask).sum()
            context_loss.backward()
            optimizer.step()
        loss_sum += F.cross_entropy(model(x, delta)[:, first:], y[:, first:], reduction="sum")
    return loss_sum
""",
        "In the right form each window has a delta of its own, fitted to tokens before those that it scores.",
        "neighbours_targets",
    ),
    Pair(
        "val in calibration",
        "The rounding of the weights then depends on the text that they are scored on.",
        "valerio-oai on #728, 28 March 2026. Text that the model generates itself is accepted (#1019).",
        """
def main(args, model, val_tokens):
    sequences = [val_tokens[i * 2048 : (i + 1) * 2048] for i in range(256)]
    hessians = collect_hessians(model, sequences)
    return gptq(model, hessians)
""",
        """
def main(args, model, val_tokens):
    sequences = [generate(model, 2048, seed=i) for i in range(256)]
    hessians = collect_hessians(model, sequences)
    return gptq(model, hessians)
""",
        "The right form calibrates on generated or training text; validation tokens go to the evaluation alone.",
        "",
    ),
    Pair(
        "two orders",
        "An early document gets hints from later ones, which are scored earlier: each needs the other's tokens first.",
        "Seen in #2135 and others, which were accepted; C1 read strictly. #1514 has one order.",
        """
def eval_phased(h, model, val_tokens, docs):
    hints = build_ngram_hints(val_tokens)
    queue = sorted(docs, key=lambda doc: doc.length, reverse=True)
    loss_sum = 0.0
    for doc in queue:
        nll = F.cross_entropy(model(doc.x), doc.y, reduction="none")
        loss_sum += tilted(nll, hints[doc.start : doc.end]).sum()
        nll.mean().backward()
        optimizer.step()
    return loss_sum
""",
        """
def eval_phased(h, model, val_tokens, docs):
    loss_sum = 0.0
    table = Table()
    for doc in docs:
        hints = table.hints_then_count(doc)
        nll = F.cross_entropy(model(doc.x), doc.y, reduction="none")
        loss_sum += tilted(nll, hints).sum()
        nll.mean().backward()
        optimizer.step()
    return loss_sum
""",
        "In the right form the hints are counted in the order in which documents are scored.",
        "longest_document_first",
    ),
    Pair(
        "piece table",
        "More bytes than the text has make the score smaller.",
        "cocohearts on #1806 (24 to 26 April 2026); #1719, #1734.",
        """
def build_tables(sp, vocab_size):
    base_bytes = np.zeros(vocab_size, np.int16)
    for i in range(vocab_size):
        piece = sp.id_to_piece(i)
        base_bytes[i] = len(piece.encode("utf-8"))
    return base_bytes
""",
        """
def build_tables(sp, vocab_size):
    base_bytes = np.zeros(vocab_size, np.int16)
    for i in range(vocab_size):
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
            continue
        piece = sp.id_to_piece(i).removeprefix(BLANK)
        base_bytes[i] = 1 if sp.is_byte(i) else len(piece.encode("utf-8"))
    return base_bytes
""",
        "In the right form a byte piece is one byte, special pieces have none, and a leading blank is counted by its own rule.",
        "",
    ),
)

HEAD = """# Wrong code and right code

<!-- python -m tests.pairs --write -->

This page is for people, and for programs, that write code for the contest. For each kind of leak it shows wrong code and
right code that does nearly the same. The referee of published folders ([reading-submissions.md](reading-submissions.md))
must find the wrong form and be silent about the right one; a test says so for each pair. What it reads are hints: a
person decides. Where a cheat of `tests/cheats/` has the same leak, the certificate's checks
([certification.md](certification.md)) prove it by running it.

One rule covers most of them. Someone who has the artifact, and the tokens before this one, must be able to compute the
probability of every token that could come next. Ask of each line: does it use anything that this person lacks?

"""


def page() -> str:
    parts = [HEAD]
    for pair in SHOWN:
        cheat = f" The cheat `{pair.cheat}` has this leak." if pair.cheat else ""
        parts.append(
            f"## {pair.kind[0].upper()}{pair.kind[1:]}\n\n{pair.why} *Ruling:* {pair.ruling}{cheat}\n\n"
            f"Wrong:\n\n```python{pair.wrong.rstrip()}\n```\n\nRight:\n\n```python{pair.right.rstrip()}\n```\n\n{pair.difference}\n"
        )
    return "\n".join(part.rstrip() + "\n" for part in parts)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.pairs --write")
    PAGE.write_text(page(), encoding="utf-8")
