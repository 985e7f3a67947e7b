"""The same for what comes after training: calibration, quantization, the blob and its score."""

from stages.lib import grouping, params
from stages.lib.one_script.settled import Settled
from stages.runtime import plugin

HESSIANS, CALIBRATE, DEQUANTIZE = "stages.lib.quant.hessians", "stages.calibrate.__main__", "stages.runtime.dequantize"
NETWORK, QUANTIZED = "stages.lib.quant.network", "stages.lib.quant.quantized"
CONTAINER, HEADER, COMPRESS, HARNESS = ("stages.runtime.container", "stages.runtime.header", "stages.compress.__main__",
                                        "stages.runtime.harness")
COMPRESSING = ("\ndef main(run: Variant, settings: Run, *, model: Input = 'artifacts/quantize/model.safetensors', "
               "blob: Output = 'artifacts/compress/{variant}/model.blob'):\n")


def methods(tree: dict, groups: set[str]) -> set[str]:
    """Methods of quantization that a matrix has; `groups` are those that have a matrix."""
    quantize = tree["quantize"]
    return {quantize["groups"][name]["method"] for name in groups} | {
        part["method"] for part in quantize["overrides"] if "method" in part}


def calibration(tree: dict, groups: set[str], found: Settled) -> None:
    writes = tree["calibrate"]["source"] == "self"
    if not writes:
        found.define("stages.calibrate.own_text", "write", "def write(*_, **__): pass")
    if "entropy" in methods(tree, groups) or tree["allocate"]["enabled"]:
        return
    # nobody reads the gradients of rows and the counts of tables
    found.define(HESSIANS, "Statistics.rows", "def rows(self): return {}")
    found.define(HESSIANS, "Statistics.gather", """
        def gather(self, world):
            if world.size > 1:
                for tensor in self.moments.values(): dist.all_reduce(tensor)""")
    found.drop(HESSIANS, "Statistics.__init__", r"self\.(tables|squares|looked_up) =")
    found.drop(HESSIANS, "Statistics._watching", r"for name, table in", r"if self\.row_gradients")
    found.drop(HESSIANS, "Statistics.add", r"self\.tokens")
    found.shorten(HESSIANS, "Statistics.add", "with torch.set_grad_enabled", """
        with torch.no_grad(), self._watching():
            self._input(self.head, self.model.hidden(tokens_BT))""")
    found.drop(CALIBRATE, "main", r"tensors\.save\(rows", r"started =", r"seconds =")
    found.drop(CALIBRATE, "collect", r"labels =")
    found.shorten(CALIBRATE, "collect", "found.add(", "found.add(part_BT.to(world.device))")
    if not writes:
        found.drop(CALIBRATE, "collect", r"text_seed, label_seed =")
        found.shorten(CALIBRATE, "collect", "if batches is None",
                      "tokens_BT = torch.cat([batches.batch(number).inputs for number in sequences])")
        found.drop(CALIBRATE, "main", r"batches = None")
        found.shorten(CALIBRATE, "main", "tensors.save(statistics", "tensors.save(statistics, found.hessians(), {})")


def quantizer(tree: dict, groups: set[str], found: Settled) -> None:
    quantize, used = tree["quantize"], methods(tree, groups)
    is_plain = not used & {"entropy", "ternary"} and not quantize["rotation"]["groups"] and quantize["scales_as"] == "float16"
    corrects = quantize["low_rank"]["matrices"] > 0
    has_one_clip = all(not isinstance(quantize["groups"][name]["clip"], list | tuple) for name in groups) and not quantize["overrides"]
    if is_plain and not corrects:
        found.define(DEQUANTIZE, "matrix", """
            def matrix(arrays, scheme):
                codes = arrays['codes']
                scale = arrays['scales'].reshape(len(codes), -1).astype(np.float32)
                return (codes.reshape(*scale.shape, -1).astype(np.float32) * scale[:, :, None]).reshape(codes.shape)""")
        found.define(DEQUANTIZE, "weights", """
            def weights(stored, schemes=None):
                out = {}
                for name, array in stored.items():
                    base, _, suffix = name.rpartition('.')
                    if suffix == 'codes':
                        out[base] = torch.from_numpy(matrix({suffix: array, 'scales': stored[base + '.scales']}, {}))
                    elif suffix != 'scales':
                        out[name] = torch.from_numpy(array.astype(np.float32))
                return out""")
    if "projection" not in groups:
        found.define(DEQUANTIZE, "build", """
            def build(state, config):
                with torch.device('meta'):
                    model = GPT(ModelConfig.from_dict(config))
                model.load_state_dict(state, assign=True)
                return model.eval().requires_grad_(False)""")
    if is_plain:
        found.define("stages.lib.quant.scales", "steps", """
            def steps(clip_M, *, bits, clip_floor, stored_as):
                scales_M = (clip_M.clamp_min(clip_floor) / limit(bits)).clamp_min(SMALLEST_FLOAT16).half()
                return Steps({'scales': scales_M}, scales_M.float())""")
    if has_one_clip:
        found.define("stages.lib.quant.gptq_lite", "best",
                     "def best(weight_MK, candidates, codes_of): return codes_of(candidates[0].values), candidates[0]")
    if has_one_clip and is_plain and used == {"gptq"}:
        found.define(NETWORK, "Solver.quantize", """
            def quantize(self, name, weight_MK, group_name, group: Group):
                settings = self.settings
                weight_MK, hessian_KK = weight_MK.to(self.device), self.hessians[name.removesuffix('.weight')].to(self.device)
                clip_M = scales.clips(weight_MK, rule=group.scales, clip=group.clip, hessian_KK=hessian_KK,
                                      strength=settings.hessian_strength)
                steps = scales.steps(clip_M, bits=group.bits, clip_floor=settings.clip_floor, stored_as=settings.scales_as)
                factor = self._factor(name, hessian_KK)
                quantized = gptq.quantize(weight_MK, factor, bits=group.bits, candidates=[steps], block=settings.gptq.block)
                return Quantized({suffix: array.cpu() for suffix, array in quantized.arrays.items()}, quantized.scheme)""")
    found.drop(NETWORK, "Solver._factor", r"if factor\.damping")
    found.drop(NETWORK, "quantize", r"result\.damping")
    if groups <= {"embedding", "attention", "mlp"}:
        found.define("stages.lib.quant.groups", "by_parameter", """
            def by_parameter(net):
                return {f'{name}.weight': name.split('.')[2] if '.' in name else 'embedding'
                        for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}""")
    if not quantize["prune"]["codes"]:
        found.drop(NETWORK, "quantize", r"pruned =", r"result\.matrices \|= prune")
        if "entropy" not in used and not corrects:
            found.define(QUANTIZED, "Quantized.weights", "def _weights(self): pass")


def text(tree: dict, found: Settled) -> None:
    slices = tree["prequant_ttt"]["enabled"] or tree["allocate"]["enabled"] or tree["ema"]["average"] == "best"
    if tree["train"]["loader"] == "shuffled" and not slices:
        found.define("stages.lib.data.stream", "Stream.__getitem__", "def _getitem(self): pass")
        found.define("stages.lib.data.stream", "Stream.__array__",
                     "def __array__(self, dtype=None, copy=None): return np.concatenate(self.shards).astype(dtype)")


def blob(tree: dict, found: Settled) -> None:
    """The container of one section, whose codec sees all bytes; of several sections as it is."""
    kind, _, name = tree["package"]["blob"].partition("/")
    found.define("stages.runtime.codecs.brotli", "decode", """
        def decode(blob, *, size):
            import brotli
            return brotli.decompress(blob)""")
    found.drop(CONTAINER, "pack", r"header\.read")
    if kind == "smallest":  # which compares what the metrics say
        return
    (first, *more) = params.section(tree, grouping.Run, variant=name).groups.values()
    if more or any(filter != "byte_shuffle" for filter, _ in first.filters) or not first.how.startswith("codecs/"):
        found.define(COMPRESS, "main", COMPRESSING + (
            "    quantized = settings.reordered(payload.read(model)[0])\n    with stage.atomic(blob) as partial:\n"
            "        partial.write_bytes(container.pack(quantized, list(settings.codings(quantized).values())))"))
        return
    codec, filters = first.how.partition("/")[2], [[filter, options] for filter, options in first.filters]
    imports = "; ".join(f"from stages.runtime.{folder} import {one}" for folder, one in (
        ("codecs", codec), *(("filters", filter) for filter, _ in filters)))
    found.define(COMPRESS, "main", COMPRESSING + (
        "    blob.parent.mkdir(parents=True)\n    blob.write_bytes(container.pack(payload.read(model)[0], ()))"))
    found.define("stages.lib.payload", "read", """
        def read(path):
            from stages.lib import tensors
            found, facts = tensors.load(path)
            return Model({name: found[name].numpy() for name in facts['order']}, facts['model'], facts['quantization']), facts""")
    found.define(CONTAINER, "pack", f"""
        def pack(model, codings):
            {imports}
            arrays = model.tensors
            data = b''.join([array.tobytes() for array in arrays.values()])
            entries, digest = [[name, array.dtype.name, array.shape] for name, array in arrays.items()], hashlib.sha256(data).hexdigest()
            {"; ".join(f"data = {one}.forward(data, **{options!r})" for one, options in filters) or "pass"}
            data = {codec}.encode(data, **{first.options!r})
            return header.write({{'config': model.config, 'schemes': model.schemes,
                                 'sections': [[{first.how!r}, {filters!r}, entries, len(data), digest]]}}) + data""")
    found.define(HEADER, "write", """
        def write(fields):
            text = zlib.compress(json.dumps(fields, separators=(',', ':'), sort_keys=True).encode(), 9)
            return MAGIC + struct.pack('<I', len(text)) + hashlib.sha256(text).digest()[:8] + text""")
    found.define(HEADER, "read", """
        def read(blob):
            length, = struct.unpack_from('<I', blob, 8)
            return json.loads(zlib.decompress(blob[20:20 + length])), blob[20 + length:]""")
    found.define(CONTAINER, "unpack", f"""
        def unpack(blob):
            {imports}
            fields, data = header.read(blob)
            arrays, offset, entries = {{}}, 0, fields['sections'][0][2]
            data = {codec}.decode(data, size=sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in entries))
            {"; ".join(f"data = {one}.inverse(data, size=len(data), **{options!r})" for one, options in filters[::-1]) or "pass"}
            for name, dtype, shape in entries:
                arrays[name] = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
                offset += arrays[name].nbytes
            return Model(arrays, fields['config'], fields['schemes'])""")


def score(tree: dict, found: Settled) -> None:
    """All of val at once, or this process's part."""
    carries = getattr(plugin.load("evaluators", tree["package"]["evaluator"]).Evaluator, "carries", True)
    found.shorten("stages.lib.one_script.run", "score", "carries =", f"carries = {carries}")
    part = "[len(chunks) * part[0] // part[1]:len(chunks) * (part[0] + 1) // part[1]]"
    found.define(HARNESS, "score", f"""
        def score(evaluator, tokens, *, part=(0, 1)):
            stream = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(torch.get_default_device())
            ledger, chunks = Ledger(np.full(len(stream) - 1, np.nan)), evaluator.chunks(len(stream) - 1)
            {"pass" if carries else "chunks = list(chunks)"}
            for chunk in chunks{"" if carries else part}:
                first, last = chunk[0].first, chunk[-1].last + 1
                seen = stream[:last].clone()
                _commit(ledger, evaluator.predict(seen, chunk).detach(), stream[first:last], first, ())
                evaluator.learn(seen, chunk)
            return ledger""")
    found.drop(HARNESS, "_commit", r"for target in")
