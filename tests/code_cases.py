"""Short sources beside those of tests/pairs.py: for each kind some that must be found, and some about which the reading must be silent."""

MORE = (  # (kind, whether it must be found; else nothing may be found, source)
    (
        "best of several",
        True,
        """
def eval_lora(model, val_tokens, docs, opt):
    for doc in docs:
        best_nll = None
        for epoch in range(5):
            nll = F.cross_entropy(model(doc[:-1]), doc[1:])
            best_nll = nll if best_nll is None else torch.minimum(best_nll, nll)
            nll.backward()
            opt.step()
        loss_sum += best_nll
""",
    ),
    (
        "best of several",
        False,
        """
def main(val_tokens):
    best = 9.0
    for step in range(100):
        loss = model(train_loader.next_batch())
        loss.backward()
        val_loss = eval_val(model, val_tokens)
        best_val_loss = min(best_val_loss, val_loss)
""",
    ),
    (
        "best of several",
        True,
        """
def score(val_tokens):
    return min(nll_first, nll_second)
""",
    ),
    (
        "best of several",
        True,
        """
def score(val_tokens, a, b, y):
    nll_a = F.cross_entropy(a, y, reduction='none')
    nll_b = F.cross_entropy(b, y, reduction='none')
    return torch.where(nll_a < nll_b, nll_a, nll_b).sum()
""",
    ),
    (
        "best of several",
        True,
        """
def score(val_tokens, models, y):
    nlls = torch.stack([F.cross_entropy(m(val_tokens), y, reduction='none') for m in models])
    return nlls.min(dim=0).values.sum()
""",
    ),
    (
        "best of several",
        False,
        """
def score(val_tokens, models, y):
    logps = torch.stack([F.log_softmax(m(val_tokens), -1) for m in models])
    return -torch.logsumexp(logps, 0).gather(-1, y).sum()
""",
    ),
    (
        "target in gate",
        False,
        """
def eval_val(model, val_tokens, batch_seqs):
    val_loss_sum = 0
    for x, y in val_tokens:
        val_loss_sum += f(x, y)
        token_bytes = base_bytes[y] + (has_blank[y] & ~boundary[x])
    return val_loss_sum
""",
    ),
    (
        "target in gate",
        True,
        """
def score(val_tokens, y):
    hint_gate = is_word_start[y]
    return hint_gate
""",
    ),
    (
        "target in gate",
        True,
        """
def score(val_tokens, tgt, logp, hint):
    for i in range(len(tgt)):
        if is_word_start[tgt[i]]:
            boost = 2.0
        loss_sum += -logp[i]
""",
    ),
    (
        "target in gate",
        False,
        """
def score(val_tokens, tgt, prev, logp, hint):
    for i in range(len(tgt)):
        if is_word_end[prev[i]]:
            boost = 2.0
        loss_sum += -logp[i]
""",
    ),
    (
        "target in gate",
        True,
        """
def score(val_tokens, targets, nll, tilted):
    new = starts_new_word[targets]
    mixed = torch.where(new, tilted_nll, nll)
    return mixed.sum()
""",
    ),
    (
        "target in hash",
        True,
        """
def score(val_np, j, primes):
    tgt = val_np[j]
    key = (hashed ^ (tgt * primes[3])) & mask
    return table[key]
""",
    ),
    (
        "target in hash",
        True,
        """
class Cache:
    def prob(self, ctx_hash, target):
        key = (ctx_hash * 31 + target * 1000003) % self.size
        return self.full[key] / max(self.ctx[ctx_hash % self.size], 1)
""",
    ),
    (
        "target in hash",
        True,
        """
def p(ctx, target, table):
    slot = hash((ctx, target)) % N
    return table[slot] / total
""",
    ),
    (
        "target in hash",
        True,
        """
def lookup(ctx, tgt):
    full = np.bitwise_xor(ctx, tgt * PRIME) & MASK
    return full_table[full] / ctx_table[ctx]
""",
    ),
    (
        "target in hash",
        False,
        """
class Tilt:
    def push(self, key, target):
        pair = (key * 1000003) ^ (target * COEF)
        self.pairs[pair] += 1
        self.totals[key] += 1
        if self.pairs[pair] > self.top[key]:
            self.top[key] = self.pairs[pair]
            self.best[key] = target
""",
    ),
    (
        "target in hash",
        False,
        """
def ctx_hash(tokens, pos):
    h = 0
    for k in range(4):
        h ^= tokens[pos - k] * PRIMES[k]
    return h
""",
    ),
    (
        "two passes",
        True,
        """
def eval_uni(model, val_tokens):
    counts = torch.bincount(val_tokens, minlength=1024)
    bias = torch.log(counts / counts.sum())
    for x, y in windows:
        nll = F.cross_entropy(model(x) + bias, y)
        loss_sum += nll
""",
    ),
    (
        "two passes",
        False,
        """
def eval_uni(model, val_tokens):
    counts = torch.zeros(1024)
    for i in range(0, len(val_tokens), 64):
        x = val_tokens[i:i+64]; y = val_tokens[i+1:i+65]
        bias = torch.log((counts + 1) / counts.sum())
        nll = F.cross_entropy(model(x) + bias, y)
        loss_sum += nll
        counts += torch.bincount(y, minlength=1024)
""",
    ),
    (
        "two passes",
        False,
        """
def hints(val_tokens):
    table = {}
    out = np.zeros(len(val_tokens))
    for i in range(len(val_tokens)):
        key = int(val_tokens[i - 1])
        out[i] = table.get(key, 0)
        table[key] += 1
    return out
def eval_tilt(model, val_tokens):
    h = hints(val_tokens)
    for i in range(0, len(val_tokens), 64):
        nll = F.cross_entropy(model(val_tokens[i:i+64]), val_tokens[i+1:i+65])
        loss_sum += tilted(nll, h[i:i+64])
""",
    ),
    (
        "two passes",
        True,
        """
def eval_cache(model, val_tokens, cache):
    for i in range(len(val_tokens)):
        cache.update(val_tokens[i - 4 : i], val_tokens[i])
    for i in range(len(val_tokens)):
        p = cache.predict(val_tokens[i - 4 : i])
        nll = -math.log(p[val_tokens[i]])
        loss_sum += nll
""",
    ),
    (
        "two passes",
        False,
        """
def eval_cache(model, val_tokens, cache):
    for i in range(len(val_tokens)):
        p = cache.predict(val_tokens[i - 4 : i])
        nll = -math.log(p[val_tokens[i]])
        loss_sum += nll
        cache.update(val_tokens[i - 4 : i], val_tokens[i])
""",
    ),
    (
        "val in calibration",
        True,
        """
H = collect_hessians(model, val_tokens)
""",
    ),
    (
        "val in calibration",
        False,
        """
def quantize(model, train_tokens):
    return collect_hessians(model, train_tokens)
""",
    ),
    (
        "val in calibration",
        True,
        """
def run(model, val_data):
    batches = [val_data.val_tokens[i:i+2048] for i in range(8)]
    gptq_calibrate(model, data=batches)
""",
    ),
    (
        "val in calibration",
        False,
        """
def run(model, val_data, log):
    H = collect_hessians(model, train_loader)
    q = gptq_quantize(model, H)
    eval_gptq_model(q, val_data.val_tokens)
""",
    ),
    (
        "val in calibration",
        False,
        """
def main(val_tokens):
    source = val_tokens if os.environ.get('CALIB', 'train') == 'val' else train_tokens
    H = collect_hessians(model, source)
""",
    ),
    (
        "trains on val",
        True,
        """
def adapt(model, val_tokens, opt):
    for part in val_tokens:
        model(part).backward()
        opt.step()
""",
    ),
    (
        "trains on val",
        False,
        """
def train(model, tokens, optimizer):
    model(tokens).backward()
    optimizer.step()
""",
    ),
    (
        "trains on val",
        True,
        """
def main():
    loader = TokenLoader('data/fineweb_val_*.bin')
    for step in range(100):
        x, y = loader.next()
        loss = model(x, y)
        loss.backward()
        opt.step()
    save(model)
""",
    ),
    (
        "trains on val",
        True,
        """
class H:
    train_files = os.environ.get('TRAIN_FILES', './data/fineweb10B/fineweb_val_*.bin')
def main():
    h = H()
    loader = TokenLoader(h.train_files)
    for step in range(100):
        x, y = loader.next()
        model(x, y).backward()
        opt.step()
main()
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_ttt(model, val_tokens, opt):
    losses = []
    for chunk in val_tokens.split(1024):
        with torch.no_grad():
            losses.append(model(chunk[:-1], chunk[1:]).item())
        loss = model(chunk[:-1], chunk[1:])
        loss.backward()
        opt.step()
    return sum(losses)
""",
    ),
    (
        "adapts first",
        True,
        """
def eval_ttt(model, val_tokens, opt):
    losses = []
    for chunk in val_tokens.split(1024):
        loss = model(chunk[:-1], chunk[1:])
        loss.backward()
        opt.step()
        with torch.no_grad():
            losses.append(model(chunk[:-1], chunk[1:]).item())
    return sum(losses)
""",
    ),
    (
        "adapts first",
        True,
        """
def eval_ttt(model, val_tokens, opt):
    total = 0.0
    for chunk in val_tokens.split(1024):
        loss = step_on(model, chunk, opt)
        total = total + loss_of(model, chunk)
    return total
def step_on(model, chunk, opt):
    loss = F.cross_entropy(model(chunk[:-1]), chunk[1:])
    loss.backward()
    opt.step()
def loss_of(model, chunk):
    return F.cross_entropy(model(chunk[:-1]), chunk[1:]).item()
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_ttt(model, val_tokens, opt):
    total = 0.0
    for chunk in val_tokens.split(1024):
        total = total + loss_of(model, chunk)
        step_on(model, chunk, opt)
    return total
def step_on(model, chunk, opt):
    loss = F.cross_entropy(model(chunk[:-1]), chunk[1:])
    loss.backward()
    opt.step()
def loss_of(model, chunk):
    return F.cross_entropy(model(chunk[:-1]), chunk[1:]).item()
""",
    ),
    (
        "adapts first",
        True,
        """
def eval_m(model, val_tokens):
    for chunk in val_tokens.split(1024):
        x, y = chunk[:-1], chunk[1:]
        loss = F.cross_entropy(model(x), y)
        grads = torch.autograd.grad(loss, params)
        for p, g in zip(params, grads):
            p.data.add_(g, alpha=-0.01)
        loss_sum += F.cross_entropy(model(x), y)
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_m(model, val_tokens):
    for chunk in val_tokens.split(1024):
        x, y = chunk[:-1], chunk[1:]
        loss_sum += F.cross_entropy(model(x), y)
        loss = F.cross_entropy(model(x), y)
        grads = torch.autograd.grad(loss, params)
        for p, g in zip(params, grads):
            p.data.add_(g, alpha=-0.01)
""",
    ),
    (
        "adapts first",
        False,
        """
SLOT_ENABLED = bool(int(os.environ.get('SLOT_ENABLED', '0')))
def eval_x(model, val_tokens):
    for chunk in val_tokens.split(1024):
        x, y = chunk[:-1], chunk[1:]
        if SLOT_ENABLED:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        loss_sum += F.cross_entropy(model(x), y)
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_x(model, val_tokens):
    use_slot = False
    for chunk in val_tokens.split(1024):
        x, y = chunk[:-1], chunk[1:]
        if use_slot:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        loss_sum += F.cross_entropy(model(x), y)
""",
    ),
    (
        "byte mixture",
        True,
        """
def eval_ppm(val_tokens, nll, nb, ppm):
    lp = -nll / nb
    mix = np.logaddexp(np.log(0.5) + lp, np.log(0.5) + ppm_logp)
    return mix
""",
    ),
    (
        "byte mixture",
        False,
        """
def eval_val(val_tokens, nll, token_bytes):
    loss_sum = nll.sum()
    byte_sum = token_bytes.sum()
    val_bpb = loss_sum / math.log(2) / byte_sum
    return val_bpb
""",
    ),
    (
        "byte mixture",
        False,
        """
def eval_mix(val_tokens, nll, token_bytes, lam):
    mixed_nll = lam * nll
    total_nll = mixed_nll.sum()
    total_bytes = token_bytes.sum()
    return total_nll / total_bytes
""",
    ),
    (
        "piece table",
        True,
        """
def luts(sp):
    for i in range(n):
        piece = sp.id_to_piece(i)
        if sp.is_byte(i):
            base[i] = 1
        elif piece.startswith(B):
            has_leading_space[i] = True
            base[i] = len(piece[1:].encode('utf-8')) + 1
        else:
            base[i] = len(piece.encode('utf-8'))
""",
    ),
    (
        "two orders",
        False,
        """
def eval_phased(h, model, val_tokens, docs):
    queue = sorted(docs, key=lambda doc: doc.length, reverse=True)
    for doc in queue:
        nll = F.cross_entropy(model(doc.x), doc.y)
        loss_sum += nll.sum()
        nll.mean().backward()
""",
    ),
    (
        "batch-shared",
        False,
        """
def eval_etlb(model, val_tokens):
    bias = torch.zeros(vocab)
    for ws in windows:
        x = val_tokens[ws:ws+2048].unsqueeze(0)
        y = val_tokens[ws+1:ws+2049].unsqueeze(0)
        ctx_loss = F.cross_entropy(model(x)[:, :ctx] + bias, y[:, :ctx])
        g = torch.autograd.grad(ctx_loss, bias)[0]
        bias = bias - 0.05 * g
        loss_sum += F.cross_entropy(model(x)[:, ctx:] + bias, y[:, ctx:])
""",
    ),
    (
        "two orders",
        True,
        """
def _build_hints(val_tokens_np, h):
    lib = ctypes.CDLL(path)
    lib.ngram_hints(val_tokens_np.ctypes.data, len(val_tokens_np), out.ctypes.data)
    return torch.from_numpy(out)
def build_ngram_hint_tables(h, val_data):
    return _build_hints(val_data.val_tokens.numpy(), h)
def eval_val_ttt_phased(h, base_model, device, val_data, forward):
    docs = _find_docs(val_data.val_tokens)
    doc_entries = sorted(list(enumerate(docs)), key=lambda d: d[1][1])
    global_batches = _build_ttt_global_batches(doc_entries, h)
    hints = build_ngram_hint_tables(h, val_data)
    while True:
        idx = claim(len(global_batches))
        x = val_data.val_tokens[idx]; y = val_data.val_tokens[idx + 1]
        per_tok_loss = forward(x, y, lora)
        loss_sum.add_((per_tok_loss - hints[idx]).sum())
        per_tok_loss.mean().backward()
        opt.step()
def main():
    h = Hyperparameters()
    timed_eval("ttt", eval_val_ttt_phased, h, model, device, val_data, fwd)
def timed_eval(label, fn, *args, **kw):
    return fn(*args, **kw)
main()
""",
    ),
    (
        "two orders",
        False,
        """
def eval_val_sliding_ttt(h, base_model, device, val_data):
    hints = build_ngram_hints(val_data.val_tokens)
    for chunk in range(n):
        x = val_data.val_tokens[chunk]; y = val_data.val_tokens[chunk + 1]
        nll = F.cross_entropy(base_model(x), y)
        loss_sum.add_((nll - hints[chunk]).sum())
        nll.mean().backward()
""",
    ),
    (
        "trains on val",
        True,
        """
def prequant_ttt(h, model, device, val_data):
    opt = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for epoch in range(h.prequant_epochs):
        for s in range(0, n, 32):
            batch = val_data.val_tokens[s*2048:(s+32)*2048+1]
            x = batch[:-1]; y = batch[1:]
            loss = model(x.to(device), y.to(device))
            loss.backward()
            opt.step()
            opt.zero_grad()
        for p in model.parameters():
            dist.all_reduce(p.data, op=dist.ReduceOp.AVG)
def train_and_eval(h, device):
    val_data = ValidationData(h, device)
    base_model, compiled_model = train_model(h, device, val_data)
    timed_eval("pre", eval_val, h, device, val_data, compiled_model)
    if h.prequant_ttt_enabled:
        prequant_ttt(h, base_model, device, val_data)
    serialize(h, base_model, code)
    eval_model = deserialize(h, device)
    timed_eval("quantized", eval_val, h, device, val_data, eval_model)
def train_model(h, device, val_data):
    train_loader = ShuffledSequenceLoader(h, device)
    def step_fn(step, lr_scale):
        for micro_step in range(h.grad_accum_steps):
            x, y = train_loader.next_batch(h.train_batch_tokens, h.grad_accum_steps)
            loss = model(x, y)
            (loss / h.grad_accum_steps).backward()
        optimizers.step()
        return loss
    step = 0
    while True:
        if step % 100 == 0:
            val_loss, val_bpb = eval_val(h, device, val_data, model)
        train_loss = step_fn(step, 1.0)
        step += 1
    return model, model
def eval_val(h, device, val_data, model):
    loss_sum = torch.zeros(())
    for b in range(0, n, 8):
        local = val_data.val_tokens[b:b+100]
        loss = model(local[:-1], local[1:])
        loss_sum += loss.to(torch.float64) * 100
    return loss_sum, loss_sum
def timed_eval(label, fn, *args, **kw):
    return fn(*args, **kw)
class Hyperparameters:
    prequant_ttt_enabled = bool(int(os.environ.get('PREQUANT_TTT_ENABLED', '1')))
def main():
    h = Hyperparameters()
    train_and_eval(h, device)
if __name__ == '__main__':
    main()
""",
    ),
    (
        "adapts first",
        True,
        """
def eval_slot_per_sample(model, val_tokens, windows, bsz):
    for ws in windows:
        x = val_tokens[ws:ws+2048]; y = val_tokens[ws+1:ws+2049]
        hidden = model.hidden(x)
        delta = nn.Parameter(torch.zeros(bsz, 1, 512))
        bias = nn.Parameter(torch.zeros(bsz, 1, 1024))
        opt = torch.optim.AdamW([delta, bias], lr=8e-3)
        for step in range(16):
            opt.zero_grad()
            logits = model.head(hidden + delta) + bias
            nll = F.cross_entropy(logits.view(-1, 1024), y.view(-1), reduction='none').view(bsz, -1)
            loss = (nll * score_mask).sum() / score_mask.sum()
            loss.backward()
            opt.step()
        with torch.no_grad():
            nll = F.cross_entropy((model.head(hidden + delta) + bias).view(-1, 1024), y.view(-1), reduction='none')
            total_nll += (nll * score_mask.view(-1)).sum().item()
""",
    ),
    (
        "scored again",
        True,
        """
def eval_lora_epochs(model, val_tokens, docs, opt):
    for doc in docs:
        lora.reset()
        for epoch in range(8):
            doc_nll = 0.0
            for c in range(0, len(doc), 256):
                x = val_tokens[c:c+256]; y = val_tokens[c+1:c+257]
                nll = F.cross_entropy(model(x, lora), y, reduction='none')
                doc_nll += nll.sum().item()
                nll.mean().backward()
                opt.step()
        total_nll += doc_nll
""",
    ),
    (
        "target in hash",
        True,
        """
@numba.njit
def score_ngram(tokens, base_p, full, ctx, out):
    for i in range(5, len(tokens)):
        h = 0
        for k in range(1, 5):
            h = (h * 1000003 + tokens[i - k]) & MASK
        tgt = tokens[i]
        fk = (h * 1000003 ^ tgt) & MASK
        if ctx[h] > 2:
            p = full[fk] / ctx[h]
            out[i] = (1 - ALPHA) * base_p[i] + ALPHA * p
        full[fk] += 1
        ctx[h] += 1
""",
    ),
    (
        "val in calibration",
        True,
        """
def main():
    val_data = ValidationData(h, device)
    calib_batches = get_calibration_batches(val_data.val_tokens, 64)
    H = collect_hessians(base_model, calib_batches)
""",
    ),
    (
        "val in calibration",
        False,
        """
def serialize(h, base_model, code):
    calib_loader = ShuffledSequenceLoader(h, device)
    hessians = collect_hessians(base_model, calib_loader, h, device, n_calibration_batches=h.gptq_calibration_batches)
    quant_result, quant_meta = gptq_mixed_quantize(sd_cpu, hessians, h)
def train_and_eval(h, device):
    val_data = ValidationData(h, device)
    serialize(h, base_model, code)
    eval_model = deserialize(h, device)
    timed_eval('quantized', eval_val, h, device, val_data, eval_model)
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_sliding(model, val_tokens):
    model.eval()
    val_loss_sum = 0
    for ws in windows:
        x = val_tokens[ws:ws+2048]; y = val_tokens[ws+1:ws+2049]
        nll = F.cross_entropy(model(x), y, reduction='none')
        val_loss_sum += nll.sum()
    return val_loss_sum
def train():
    for step in range(1000):
        x, y = next_train_batch()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(eval_sliding(model, val_tokens))
""",
    ),
    (
        "trains on val",
        False,
        """
def distill(student, teacher, train_tokens, val_tokens):
    for s in range(100):
        batch = train_tokens[s*100:(s+1)*100]
        with torch.no_grad():
            t = teacher(batch)
        loss = F.kl_div(student(batch), t)
        loss.backward()
        opt.step()
    quantize(student)
    return eval_val(student, val_tokens)
""",
    ),
    (
        "trains on val",
        False,
        """
def main():
    val_tokens = load_validation_tokens(args.val_files)
    for step in range(args.iterations):
        inputs, targets = next(train_iter)
        loss = model(inputs, targets)
        loss.backward()
        for opt in optimizers: opt.step()
        if args.val_loss_every and step % args.val_loss_every == 0:
            v = evaluate(model, val_tokens)
    final = evaluate(model, val_tokens)
def evaluate(model, val_tokens):
    total = 0.0
    for i in range(0, len(val_tokens) - 1, 1024):
        x = val_tokens[i:i+1024][None]; y = val_tokens[i+1:i+1025][None]
        with torch.no_grad():
            total += model(x, y).item()
    return total
main()
""",
    ),
    (
        "trains on val",
        False,
        """
def eval_val_ttt(h, model, device, val_data, batch_seqs=32):
    opt = torch.optim.SGD(model.parameters(), lr=h.ttt_lr)
    for ci in range(num_chunks):
        score_chunk(model, ci, val_data, sums)
        if ci < num_chunks - 1:
            train_chunk(model, opt, ci, val_data)
    return finish(sums)
def score_chunk(model, ci, val_data, sums):
    x = val_data.val_tokens[ci*C:(ci+1)*C]; y = val_data.val_tokens[ci*C+1:(ci+1)*C+1]
    nll = F.cross_entropy(model(x), y, reduction='none')
    sums['loss'] += nll.sum()
    sums['tokens'] += y.numel()
def train_chunk(model, opt, ci, val_data):
    x = val_data.val_tokens[ci*C:(ci+1)*C]; y = val_data.val_tokens[ci*C+1:(ci+1)*C+1]
    for e in range(3):
        opt.zero_grad(); loss = model(x, y); loss.backward(); opt.step()
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_ttt(model, val_tokens, docs, opt):
    for doc in docs:
        x = val_tokens[doc.start:doc.end]; y = val_tokens[doc.start+1:doc.end+1]
        ptl = F.cross_entropy(model(x), y, reduction='none')
        opt.zero_grad()
        ptl.mean().backward()
        opt.step()
        loss_sum += ptl.detach().sum()
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_ttt(model, val_tokens, docs, opt):
    for doc in docs:
        x = val_tokens[doc.start:doc.end]; y = val_tokens[doc.start+1:doc.end+1]
        loss = model(x, y)
        loss.backward()
        opt.step()
        total += loss.item()
""",
    ),
    (
        "adapts first",
        True,
        """
def eval_slot(model, val_tokens, docs, opt):
    for doc in docs:
        x = torch.stack([val_tokens[doc.start:doc.end]]); y = val_tokens[doc.start+1:doc.end+1]
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        loss = F.cross_entropy(model(x), y)
        total += loss.item()
""",
    ),
    (
        "adapts first",
        True,
        """
def eval_slot(model, val_tokens, docs, opt):
    for doc in docs:
        before = nll_of(model, val_tokens[doc.start:doc.end])
        for step in range(4):
            nll_of(model, val_tokens[doc.start:doc.end]).backward()
            opt.step()
        after = nll_of(model, val_tokens[doc.start:doc.end])
        total += after
def nll_of(model, seq):
    return F.cross_entropy(model(seq[:-1]), seq[1:])
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_ttt(model, val_tokens, chunks, opt):
    prev_chunk = None
    for start in chunks:
        if prev_chunk is not None:
            loss = F.cross_entropy(model(prev_chunk[:-1]), prev_chunk[1:])
            loss.backward()
            opt.step()
        chunk = val_tokens[start:start + 1025]
        with torch.no_grad():
            loss_sum += F.cross_entropy(model(chunk[:-1]), chunk[1:], reduction='sum')
        prev_chunk = chunk
""",
    ),
    (
        "adapts first",
        False,
        """
def eval_ttt(model, val_tokens, opt):
    for ci in range(n):
        if ci > 0:
            seg = val_tokens[(ci - 1) * C : ci * C + 1]
            loss = F.cross_entropy(model(seg[:-1]), seg[1:])
            loss.backward()
            opt.step()
        seg = val_tokens[ci * C : (ci + 1) * C + 1]
        loss_sum += F.cross_entropy(model(seg[:-1]), seg[1:], reduction='sum')
""",
    ),
)
