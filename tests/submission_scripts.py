"""Scripts in the manner of the contest, put together from parts: what trains, what evaluates, and what some of them do to the val split.

`program(evaluate=..., before=...)` is a whole script; `SCRIPTS` has its name, its source and the kinds that must be found in it.
"""

BASE = """
import glob, math, os
import numpy as np
import torch
import torch.nn.functional as F

class Hyperparameters:
    data_path = os.environ.get("DATA_PATH", "./data/fineweb")
    train_files = os.path.join(data_path, "fineweb_train_*.bin")
    val_files = os.path.join(data_path, "fineweb_val_*.bin")
    iterations = int(os.environ.get("ITERATIONS", 20000))
    ttt_enabled = bool(int(os.environ.get("TTT_ENABLED", "1")))
    prequant_ttt_enabled = bool(int(os.environ.get("PREQUANT_TTT_ENABLED", "0")))
    ttt_epochs = int(os.environ.get("TTT_EPOCHS", 3))

def tables(sp, size):
    base_bytes, leading, boundary = np.zeros(size), np.zeros(size, bool), np.ones(size, bool)
    for i in range(size):
        if sp.is_control(i) or sp.is_unknown(i):
            continue
        boundary[i] = False
        piece = sp.id_to_piece(i)
        leading[i] = piece.startswith(BLANK)
        base_bytes[i] = 1 if sp.is_byte(i) else len(piece.lstrip(BLANK).encode("utf-8"))
    return base_bytes, leading, boundary

class TokenStream:
    def __init__(self, pattern):
        self.files = sorted(glob.glob(pattern))
        self.tokens = load_shard(self.files[0])
        self.pos = 0
    def take(self, n):
        chunk = self.tokens[self.pos : self.pos + n]
        self.pos += n
        return chunk

class DistributedTokenLoader:
    def __init__(self, pattern, rank, world_size):
        self.stream = TokenStream(pattern)
    def next_batch(self, tokens, seq_len, grad_accum_steps):
        local = self.stream.take(tokens)
        return local[:-1].reshape(-1, seq_len), local[1:].reshape(-1, seq_len)

def eval_val(args, model, device, grad_accum_steps, val_tokens, base_bytes_lut, has_leading_space_lut, is_boundary_token_lut):
    val_loss_sum = torch.zeros((), dtype=torch.float64)
    val_token_count = torch.zeros((), dtype=torch.float64)
    val_byte_count = torch.zeros((), dtype=torch.float64)
    with torch.inference_mode():
        for start in range(0, total, batch):
            local = val_tokens[start : start + batch + 1].to(device)
            x = local[:-1].reshape(-1, args.train_seq_len)
            y = local[1:].reshape(-1, args.train_seq_len)
            batch_loss = model(x, y).detach()
            val_loss_sum += batch_loss.to(torch.float64) * float(y.numel())
            val_token_count += float(y.numel())
            token_bytes = base_bytes_lut[y.reshape(-1)]
            token_bytes += has_leading_space_lut[y.reshape(-1)] & ~is_boundary_token_lut[x.reshape(-1)]
            val_byte_count += token_bytes.to(torch.float64).sum()
    val_loss = val_loss_sum / val_token_count
    return float(val_loss), float(val_loss / math.log(2.0) * val_token_count / val_byte_count)

{functions}

def main():
    args = Hyperparameters()
    val_tokens = load_validation_tokens(args.val_files, args.train_seq_len)
    luts = tables(sp, args.vocab_size)
    base_model = GPT(args)
    model = torch.compile(base_model)
    optimizers = [torch.optim.Adam(base_model.parameters())]
    train_loader = DistributedTokenLoader(args.train_files, rank, world_size)
    for warmup_step in range(args.warmup_steps):
        x, y = train_loader.next_batch(args.batch, args.seq_len, grad_accum_steps)
        (model(x, y) * grad_scale).backward()
    best_val_loss = 1e9
    step = 0
    while True:
        if step % args.val_loss_every == 0:
            val_loss, val_bpb = eval_val(args, model, device, grad_accum_steps, val_tokens, *luts)
            best_val_loss = min(best_val_loss, val_loss)
        if step == args.iterations:
            break
        train_loss = torch.zeros(())
        for micro_step in range(grad_accum_steps):
            x, y = train_loader.next_batch(args.batch, args.seq_len, grad_accum_steps)
            loss = model(x, y)
            train_loss += loss.detach()
            (loss * grad_scale).backward()
        for opt in optimizers:
            opt.step()
        step += 1
    {before}
    quantized = quantize_state_dict(base_model.state_dict())
    torch.save(quantized, "final_model.ptz")
    base_model.load_state_dict(dequantize_state_dict(quantized))
    q_loss, q_bpb = eval_val(args, model, device, grad_accum_steps, val_tokens, *luts)
    {after}

if __name__ == "__main__":
    main()
"""

TTT = """
def eval_val_ttt(args, base_model, device, val_tokens, base_bytes_lut, stride, batch_seqs=32):
    loss_sum = torch.zeros((), dtype=torch.float64)
    optimizer = torch.optim.SGD(base_model.parameters(), lr=args.ttt_lr, momentum=0.9)
    for ci in range(num_chunks):
        with torch.inference_mode():
            for bi in range(0, len(windows[ci]), batch_seqs):
                batch_ws = windows[ci][bi : bi + batch_seqs]
                x_batch = torch.zeros(len(batch_ws), seq_len, dtype=torch.int64)
                y_batch = torch.zeros(len(batch_ws), seq_len, dtype=torch.int64)
                for i, ws in enumerate(batch_ws):
                    tok = val_tokens[ws : ws + seq_len + 1].to(device)
                    x_batch[i], y_batch[i] = tok[:-1], tok[1:]
                nll = F.cross_entropy(logits_of(x_batch), y_batch.reshape(-1), reduction="none")
                for i, ws in enumerate(batch_ws):
                    loss_sum += nll[i, s:wlen].to(torch.float64).sum()
                    byte_count += base_bytes_lut[y_batch[i, s:wlen]].sum()
        if ci < num_chunks - 1:
            for _ep in range(args.ttt_epochs):
                for bs in range(0, chunk_seqs, args.ttt_batch_seqs):
                    local = val_tokens[start : start + n].to(device)
                    x, y = local[:-1].reshape(-1, seq_len), local[1:].reshape(-1, seq_len)
                    optimizer.zero_grad(set_to_none=True)
                    loss = base_model(x, y)
                    loss.backward()
                    optimizer.step()
    return loss_sum
"""
TTT_CALL = """if args.ttt_enabled:
        eval_val_ttt(args, base_model, device, val_tokens, luts[0], 64)
    eval_val(args, model, device, grad_accum_steps, val_tokens, *luts)"""

LORA = """
class LoRA(nn.Module):
    def reset(self):
        for m in self.modules():
            m.B.zero_()

def _accumulate_bpb(per_token, x, y, mask, base_bytes_lut, loss_sum, byte_sum):
    loss_sum.add_(per_token.masked_fill(~mask, 0.0).to(torch.float64).sum())
    byte_sum.add_(base_bytes_lut[y].sum())

def train_global_sgd(h, device, val_data, base_model, tokens):
    optimizer = torch.optim.SGD(base_model.parameters(), lr=h.global_lr, momentum=0.9)
    for ci in range(num_chunks):
        local = tokens[ci * chunk : (ci + 1) * chunk + 1].to(device)
        loss = base_model(local[:-1][None], local[1:][None])
        loss.backward()
        optimizer.step()

def eval_val_ttt_phased(h, base_model, device, val_data, forward_ttt):
    all_tokens = val_data.val_tokens
    docs = sorted(find_docs(all_tokens), key=lambda d: d[1])
    queue = [docs[i : i + 64] for i in range(0, len(docs), 64)]
    loss_sum, byte_sum = torch.zeros(()), torch.zeros(())
    lora = LoRA(64, base_model)
    opt = torch.optim.AdamW(lora.parameters(), lr=h.lora_lr)
    scored_docs = []
    while True:
        index = claim_next(counter, len(queue))
        if index >= len(queue):
            break
        lora.reset()
        for ci in range(max_chunks):
            x = torch.where(valid, all_tokens[idx], 0)
            y = torch.where(valid, all_tokens[idx + 1], 0)
            per_token = forward_ttt(x, y, lora=lora)
            with torch.no_grad():
                _accumulate_bpb(per_token, x, y, mask, val_data.base_bytes_lut, loss_sum, byte_sum)
            if needs_train:
                per_doc = per_token[:, offset : offset + h.chunk].mean(dim=-1)
                opt.zero_grad(set_to_none=True)
                (per_doc * active).sum().backward()
                opt.step()
        scored_docs.append((index, start, length))
        if should_pause:
            tokens = torch.cat([val_data.val_tokens[s : s + n] for _, s, n in scored_docs])
            train_global_sgd(h, device, val_data, base_model, tokens)
    return loss_sum, byte_sum

def timed_eval(label, fn, *args, **kwargs):
    val_loss, val_bpb = fn(*args, **kwargs)
    log(f"{label} val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}")
    return val_loss, val_bpb
"""
LORA_CALL = """log("ttt_lora:warming up compile")
    for bsz in sizes:
        wl = LoRA(bsz, base_model)
        xw = torch.randint(0, args.vocab_size, (bsz, 64))
        yw = torch.randint(0, args.vocab_size, (bsz, 64))
        base_model.forward_ttt(xw, yw, lora=wl).sum().backward()
    val_data = ValidationData(args, device)
    timed_eval("quantized_ttt", eval_val_ttt_phased, args, base_model, device, val_data, forward_ttt=forward)"""
LORA_VAL_WARM_CALL = LORA_CALL.replace("torch.randint(0, args.vocab_size, (bsz, 64))", "val_tokens[: bsz * 64].reshape(bsz, 64)")

PREQUANT = """
def ttt_adapt_adamw(args, base_model, device, val_tokens):
    optimizer = torch.optim.AdamW(base_model.parameters(), lr=5e-4)
    for epoch in range(args.ttt_epochs):
        epoch_loss_sum = torch.zeros(())
        for bs in range(0, total_seqs, batch_seqs):
            local = val_tokens[bs * seq_len : (bs + batch_seqs) * seq_len + 1].to(device)
            x, y = local[:-1].reshape(-1, seq_len), local[1:].reshape(-1, seq_len)
            optimizer.zero_grad(set_to_none=True)
            loss = base_model(x, y)
            loss.backward()
            optimizer.step()
            epoch_loss_sum += loss.detach() * y.numel()
"""
PREQUANT_CALL = "ttt_adapt_adamw(args, base_model, device, val_tokens)"
PREQUANT_SWITCH = "if args.prequant_ttt_enabled:\n        ttt_adapt_adamw(args, base_model, device, val_tokens)"
DISCARDED = """
def prequant_ttt(h, base_model, device, val_tokens):
    optimizer = torch.optim.AdamW(base_model.parameters(), lr=5e-4)
    loss_sum = torch.zeros(())
    for ci in range(num_chunks):
        chunk = val_tokens[ci * size : (ci + 1) * size + 1].to(device)
        with torch.no_grad():
            loss_sum += base_model(chunk[:-1], chunk[1:])
        loss = base_model(chunk[:-1], chunk[1:])
        loss.backward()
        optimizer.step()
"""

SLOT = """
def eval_val_slot(args, base_model, device, val_tokens, stride, batch_seqs=32):
    loss_sum = torch.zeros((), dtype=torch.float64)
    for bi in range(0, len(my_windows), batch_seqs):
        batch_ws = my_windows[bi : bi + batch_seqs]
        x_batch, y_batch = torch.zeros(32, seq_len), torch.zeros(32, seq_len)
        for i, ws in enumerate(batch_ws):
            tok = val_tokens[ws : ws + seq_len + 1].to(device)
            x_batch[i], y_batch[i] = tok[:-1], tok[1:]
        with torch.no_grad():
            hidden = base_model.forward_hidden(x_batch)
        delta = torch.zeros({shape}, device=device, requires_grad=True)
        sopt = torch.optim.AdamW([delta], lr=args.slot_lr)
        for _ in range(args.slot_steps):
            sopt.zero_grad()
            nll = F.cross_entropy(base_model.head(hidden + delta), y_batch, reduction="none")
            loss = {objective}
            loss.backward()
            sopt.step()
        nll = F.cross_entropy(base_model.head(hidden + delta.detach()), y_batch, reduction="none")
        for i, ws in enumerate(batch_ws):
            loss_sum += nll[i, s:wlen].to(torch.float64).sum()
    return loss_sum
"""
SLOT_CALL = "eval_val_slot(args, base_model, device, val_tokens, 64)"

LBFGS = """
def eval_val_lbfgs(args, base_model, device, val_tokens, batch_seqs=32):
    loss_sum = torch.zeros(())
    for bi in range(0, len(my_windows), batch_seqs):
        tok = val_tokens[bi : bi + 2049]
        x, y = tok[:-1], tok[1:]
        base_logits = base_model.forward_logits(x).float()
        delta = torch.zeros(vocab, requires_grad=True)
        opt = torch.optim.LBFGS([delta], lr=1.0, max_iter=25)
        def closure():
            opt.zero_grad()
            loss = F.cross_entropy(base_logits[:, focal] + delta, y[:, focal])
            loss.backward()
            return loss
        opt.step(closure)
        loss_sum += F.cross_entropy(base_logits + delta.detach(), y, reduction="none").sum()
    return loss_sum
"""
LBFGS_CALL = "eval_val_lbfgs(args, base_model, device, val_tokens)"

ETLB = """
def eval_val_etlb(h, device, val_data, base_model):
    bias = torch.zeros(h.vocab_size)
    loss_sum = torch.zeros(())
    for ws in my_windows:
        tok = val_data.val_tokens[ws : ws + 2049]
        x, y = tok[:-1].unsqueeze(0), tok[1:].unsqueeze(0)
        logits = base_model.forward_logits(x).float()
        b = bias.detach().clone().requires_grad_(True)
        for _ in range(h.etlb_steps):
            loss = F.cross_entropy(logits[0, :context_size] + b, y[0, :context_size])
            grad = torch.autograd.grad(loss, b)[0]
            b = (b - h.etlb_lr * grad).detach().requires_grad_(True)
        bias = b.detach().clamp_(-3, 3)
        nll = F.cross_entropy(logits[0] + bias, y[0], reduction="none")
        loss_sum += nll[context_size:].sum()
    return loss_sum
"""
ETLB_CALL = "eval_val_etlb(args, device, ValidationData(args), base_model)"

NGRAM = """
class NgramCache:
    def lookup(self, val_np, pos, tgt_np, n):
        ctx_hash = np.zeros(len(pos), dtype=np.uint64)
        for k in range(n - 1):
            ctx_hash = ctx_hash ^ (val_np[pos - k].astype(np.uint64) * self.primes[k])
        full_key = ((ctx_hash ^ (tgt_np * self.primes[n - 1])) & self.mask).astype(np.int64)
        ctx_counts = self.ctx_tables[n][(ctx_hash & self.mask).astype(np.int64)].astype(np.float64)
        full_counts = self.full_tables[n][full_key].astype(np.float64)
        return np.minimum(full_counts, ctx_counts) / np.maximum(ctx_counts, 1.0)
    def update(self, val_np, start, end):
        np.add.at(self.ctx_tables[0], start, 1)

def eval_val_ngram(args, base_model, val_tokens):
    val_np = val_tokens.numpy()
    cache = NgramCache(7, 1 << 22)
    loss_sum = 0.0
    for ws in windows:
        x, y = val_tokens[ws : ws + 64], val_tokens[ws + 1 : ws + 65]
        nll = F.cross_entropy(base_model(x), y, reduction="none")
        p_ngram = cache.lookup(val_np, positions, y.numpy().astype(np.uint64), 5)
        mixed = (1 - alpha) * np.exp(-nll.numpy()) + alpha * p_ngram
        loss_sum += float(-np.log(mixed).sum())
        cache.update(val_np, ws, ws + 64)
    return loss_sum
"""
NGRAM_CALL = "eval_val_ngram(args, base_model, val_tokens)"

CALIBRATE = """
def collect_hessians(model, sequences, device):
    for sequence in sequences:
        model(sequence[:-1].to(device))
    return {}
"""
FROM_VAL = "rows = val_tokens[: 256 * 2048].view(256, 2048)\n    hessians = collect_hessians(base_model, rows, device)"
FROM_TRAIN = (
    "loader = DistributedTokenLoader(args.train_files, rank, world_size)\n"
    "    rows = [loader.next_batch(1, 2048, 1)[0] for _ in range(64)]\n    hessians = collect_hessians(base_model, rows, device)"
)


def program(functions: str = "", *, before: str = "pass", after: str = "pass") -> str:
    return BASE.replace("{functions}", functions).replace("{before}", before).replace("{after}", after)


def slot(shape: str, objective: str) -> str:
    return program(SLOT.replace("{shape}", shape).replace("{objective}", objective), after=SLOT_CALL)


SHARED, OWN = "1, 1, 512", "len(batch_ws), 1, 512"
ALL, CONTEXT = "nll[:, :-1].mean()", "(nll * context_mask).sum()"
SCRIPTS = {
    "naive": (program(), set()),
    "score-first TTT": (program(TTT, after=TTT_CALL), set()),
    "phased LoRA-TTT": (program(LORA, after=LORA_CALL), set()),
    "phased LoRA-TTT that warms up on val": (program(LORA, after=LORA_VAL_WARM_CALL), set()),
    "TTT before quantization": (program(PREQUANT, before=PREQUANT_CALL), {"trains on val"}),
    "TTT before quantization and after it": (program(PREQUANT + TTT, before=PREQUANT_CALL, after=TTT_CALL), {"trains on val"}),
    "TTT before quantization, switched off": (program(PREQUANT + TTT, before=PREQUANT_SWITCH, after=TTT_CALL), set()),
    "TTT before quantization with a score that is thrown away": (
        program(DISCARDED, before="prequant_ttt(args, base_model, device, val_tokens)"),
        {"trains on val"},
    ),
    "SLOT": (slot(SHARED, ALL), {"adapts first", "batch-shared"}),
    "SLOT for each window": (slot(OWN, ALL), {"adapts first"}),
    "context-only SLOT, shared": (slot(SHARED, CONTEXT), {"batch-shared"}),
    "context-only SLOT for each window": (slot(OWN, CONTEXT), set()),
    "L-BFGS": (program(LBFGS, after=LBFGS_CALL), {"adapts first", "batch-shared"}),
    "ETLB": (program(ETLB, after=ETLB_CALL), set()),
    "hashed n-grams": (program(NGRAM, after=NGRAM_CALL), {"target in hash"}),
    "calibration on val": (program(CALIBRATE, before=FROM_VAL), {"val in calibration"}),
    "calibration on train": (program(CALIBRATE, before=FROM_TRAIN), set()),
}
