"""What is short because the settings of a run leave most of it off: definitions and statements that do the same for these settings.

Numbers must not differ: `make test-scripts` compares every stack with the pipeline to the bit. On a GPU the script has FlashAttention 3
and torch's own attention only, packed rows varlen too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from inspect import cleandoc

from stages.lib import averages
from stages.lib.optim import orthogonalise
from stages.runtime import features as hooks
from stages.runtime import plugin

Place = tuple[str, str]
LOOP, TRAIN, GPT, BACKENDS = "stages.train.loop", "stages.train.__main__", "stages.runtime.model.gpt", "stages.runtime.model.backends"
FEATURES, PREFETCH, BATCHES = "stages.runtime.features", "stages.lib.data.prefetch", "stages.lib.data.loaders.base"


@dataclass
class Settled:
    """By module and name: new definitions, and patterns of statements that go; by how such a statement begins: what stays of it."""

    functions: dict[Place, str] = field(default_factory=dict)
    statements: dict[Place, list[str]] = field(default_factory=dict)
    shorter: dict[str, str] = field(default_factory=dict)

    def define(self, module: str, name: str, source: str) -> None:
        self.functions[module, name] = cleandoc(source)

    def drop(self, module: str, name: str, *patterns: str) -> None:
        self.statements.setdefault((module, name), []).extend(patterns)

    def shorten(self, module: str, name: str, begin: str, source: str) -> None:
        """`source` for the statements that begin so."""
        self.drop(module, name, "".join("\\" * (not sign.isalnum() and sign not in " _") + sign for sign in begin))
        self.shorter[begin] = cleandoc(source)


def left_out(tree: dict) -> dict[str, dict[str, str]]:
    """Stages that would only hand on what they read, and the files that are read instead of theirs."""
    found = {}
    average = tree["ema"]["average"]
    if is_tracked(average) and has_fixed_features(tree):
        weights = f"averages/{average}.safetensors" if average != "final" else "model.safetensors"
        found["ema"] = {"ema/model.safetensors": f"train/{weights}"}
    if not tree["prequant_ttt"]["enabled"]:
        found["prequant_ttt"] = {"prequant_ttt/model.safetensors": "ema/model.safetensors"}
    if not tree["allocate"]["enabled"]:
        found["allocate"] = {}
    return found


def is_tracked(average: str) -> bool:
    """Whether training ends with this average; others are made or chosen afterwards."""
    return average != "best" and not average.startswith("posthoc_")


def has_fixed_features(tree: dict) -> bool:
    """Whether the trained network and the artifact's have the same features."""
    return "multi_token_prediction" not in tree["model"]["features"]


def used_hooks(features: Iterable[str]) -> list[str]:
    """The hooks that any of the features has; a feature may be one of several classes."""
    classes = [cls for name in features for cls in vars(plugin.load("features", name)).values() if isinstance(cls, type)]
    return [hook for hook in hooks.HOOKS if any(hasattr(cls, hook) for cls in classes)]


def resets(tree: dict) -> bool:
    """Whether the evaluator keeps documents apart."""
    return tree["package"]["options"].get("reset_at") is not None


def model(tree: dict, found: Settled) -> None:
    features, chosen = dict(sorted(tree["model"]["features"].items())), tree["model"]["attention_backend"]
    if has_fixed_features(tree):
        imports = f"from stages.runtime.features import {', '.join(features)}" if features else "pass"
        made = ", ".join(f"{name!r}: {name}.Feature({', '.join(['config', *(f'{key}={value!r}' for key, value in options.items())])})"
                         for name, options in features.items() if name != "parallel_residual")  # which is but a number
        found.define(FEATURES, "build", f"""
            def build(config):
                {imports}
                return {{{made}}}""")
        sizes = {name: value for name, value in tree["model"].items() if name != "attention_backend"} | {"features": features}
        found.shorten(TRAIN, "main", "config = ", f"config = ModelConfig({{'vocabulary_size': text.vocabulary_size, **{sizes!r}}})")
        found.drop(TRAIN, "main", r"sizes =", r"asked =")
        found.define("stages.runtime.model.config", "ModelConfig", """
            class ModelConfig:
                def __init__(self, values): self.values, self.vocabulary_size = values, values['vocabulary_size']
                @staticmethod
                def from_dict(values): return ModelConfig(values)
                def to_dict(self): return self.values""")
    else:
        found.shorten(TRAIN, "main", "asked =", "sizes.pop('attention_backend')")
    found.shorten(TRAIN, "main", "model.attention_backend =", f"model.attention_backend = {chosen!r}" if chosen != "auto" else "pass")
    found.define(FEATURES, "HOOKS", f"HOOKS = {(*dict.fromkeys([*used_hooks(features), 'gate']),)!r}")
    if "skip_attention" not in features:
        found.shorten(GPT, "GPT._layer", "x_BTD = entered_BTD if attended", "x_BTD = entered_BTD + attended_BTD")
    if "parallel_residual" in features:
        found.drop(GPT, "GPT._layer", r"parallel =")
        found.shorten(GPT, "GPT._layer", "read_BTD = ",
                      f"read_BTD = entered_BTD if layer >= {features['parallel_residual']['first_layer']} else x_BTD")
    if "depth_recurrence" in features:
        found.shorten(GPT, "GPT.hidden", "layers = recurrence", "layers = self.features['depth_recurrence'].layers()")
    _attention(tree, found)


def _attention(tree: dict, found: Settled) -> None:
    is_packed, width = tree["train"]["loader"] == "packed", tree["model"]["width"] // tree["model"]["num_heads"]
    found.define(BACKENDS, "MODULES", "MODULES = {'flash3': ('flash_attn_3.flash_attn_interface', 'flash_attn_interface')}")
    generations = "{'flash3': (9,), 'varlen': range(8, 13)}" if is_packed else "{'flash3': (9,)}"
    for name in ("RUNS_ON", "AUTO"):
        found.define(BACKENDS, name, f"{name} = {generations}")
    if not is_packed:
        found.drop(BACKENDS, "_import", r"if name == 'varlen'")
    if is_packed or resets(tree):
        return
    found.define(GPT, "GPT.forward", "def forward(self, tokens_BT, *_): return self.head(self.hidden(tokens_BT))")
    if tree["model"]["attention_backend"] == "auto":
        flash = "return flash(q_BTHK, k_BTGK, v_BTGK, cu_seqlens, max_seqlen, name='flash3')"
        found.define(BACKENDS, "attend", f"""
            def attend(q_BTHK, k_BTGK, v_BTGK, cu_seqlens, max_seqlen, *, name):
                if q_BTHK.is_cuda and q_BTHK.dtype != torch.float32 and machine():
                    {flash if width % 8 == 0 and width <= 256 else 'pass'}
                return sdpa(q_BTHK, k_BTGK, v_BTGK, cu_seqlens, max_seqlen)""")
        found.define(BACKENDS, "machine", "def machine(): return torch.cuda.get_device_capability()[0] == 9 and len(kernels('flash3')) > 0")


def training(tree: dict, found: Settled) -> None:
    train = tree["train"]
    if train["qat"]["form"] == "none":
        _without_rounding(train, found)
    if train["loader"] != "coprime":  # a loader that needs no position
        found.define(PREFETCH, "Prefetcher._start", "def _start(self, step): self.ahead = step, self.reader.submit(self._read, step)")
        found.drop(PREFETCH, "Prefetcher.batch", r"self\._forget")
        found.drop(LOOP, "prime", r"batches\.go_to")
        found.shorten(LOOP, "prime", "before, place =", "before = {name: weight.clone() for name, weight in run.weights().items()}")
    if train["loader"] != "packed":
        _without_segments(found)
    if not train["split"]["layers"]:
        found.define("stages.train.optimizers", "early_matrices", "def early_matrices(model, split): return ()")
    found.define("stages.lib.optim.adamw", "AdamW.step", """
        def step(self, *, scale):
            self.gradients()
            for group, own in zip(self.torch.param_groups, self.groups): group['lr'] = own.rate * scale
            self.torch.step()""")
    if train["fused_loss"] == "never":
        graph = "torch.compile(of, dynamic=False, fullgraph=True)"
        compiled = {"always": graph, "never": "of", "auto": f"{graph} if world.device.type == 'cuda' else of"}[train["compile"]]
        found.define(LOOP, "loss_of", f"""
            def loss_of(model, settings, world):
                of = loss.of(model, softcap_cross_entropy.plain)
                torch._dynamo.config.recompile_limit = GRAPHS
                return {compiled}""")
        if train["compile"] != "auto":
            found.functions.pop((LOOP, "loss_of"))
    if train["weight_decay_taper_start"] == train["weight_decay_taper_floor"] == 1.0:
        found.define("stages.lib.schedule", "decay_taper", "def decay_taper(fraction, *, start, floor): return 1.0")
    spent = "float(step)" if train["seconds"] is None else "self.virtual(step)" if train["clock"] else "real_seconds"
    found.define("stages.lib.schedule", "Clock.spent", f"def spent(self, step, real_seconds): return {spent}")
    triples = train["muon"]["coefficients"]
    found.define("stages.lib.optim.orthogonalise", "COEFFICIENTS",
                 f"COEFFICIENTS = {{{triples!r}: {orthogonalise.COEFFICIENTS[triples]!r}}}")
    found.shorten(TRAIN, "main", "facts = {'model'", "facts = {'model': config.to_dict()}")


def _without_rounding(train: dict, found: Settled) -> None:
    found.define("stages.train.qat", "Rounding", "def Rounding(model, settings): return None")
    found.drop(LOOP, "_prepare", r"run\.rounding")
    found.shorten(LOOP, "prime", "for started_at in", """
        for _ in range(settings.priming_steps):
            _step(run, batches, settings, 1.0, fraction, world, precision)
            run.step += 1""")
    found.shorten(LOOP, "prime", "run.step, run.rounding", "run.step = 0")
    segments = ", part.cu_seqlens, part.max_seqlen" * (train["loader"] == "packed")
    found.shorten(LOOP, "_step", "with numerics.cast_at_use(precision, world.device.type), run", f"""
        with numerics.cast_at_use(precision, world.device.type):
            nats = run.loss(part.inputs, part.targets{segments}) / len(parts)""")


def _without_segments(found: Settled) -> None:
    found.define(BATCHES, "Batch.parts", """
        def parts(self, tokens):
            rows = tokens // self.inputs.size(1)
            return [Batch(*part, None, self.max_seqlen) for part in zip(self.inputs.split(rows), self.targets.split(rows))]""")
    found.define(BATCHES, "Batch.to", """
        def to(self, device):
            return replace(self, inputs=self.inputs.to(device, non_blocking=True), targets=self.targets.to(device, non_blocking=True))""")
    found.define(PREFETCH, "Prefetcher._read", """
        def _read(self, step):
            batch = self.loader.batch(step, rank=self.world.rank, world_size=self.world.size)
            if self.world.device.type != 'cuda':
                return batch
            return replace(batch, inputs=batch.inputs.pin_memory(), targets=batch.targets.pin_memory())""")
    found.shorten(LOOP, "_step", "nats = run.loss(", "nats = run.loss(part.inputs, part.targets) / len(parts)")
    found.shorten("stages.train.loss", "of", "hidden_BTD = model.hidden(tokens_BT, cu", "hidden_BTD = model.hidden(tokens_BT)")


def averaging(tree: dict, found: Settled) -> None:
    kept, average = tree["train"]["averages"], tree["ema"]["average"]
    if is_tracked(average):
        found.define("stages.ema.__main__", "Choice.weights", "def weights(self, name): return tensors.load(self.tracked[name])[0], 0.0")
    if not (kept["swa_every"] or kept["lawa_every"] or kept["power"]):
        decays = {averages.name(decay): decay for decay in kept["ema"]}
        found.define("stages.lib.averages", "Averages", f"""
            class Averages:
                def __init__(self, model, settings):
                    self.parameters = dict(model.named_parameters())
                    self.tensors = {{average: {{key: weight.detach().float().clone() for key, weight in self.parameters.items()}}
                                    for average in {list(decays)}}}
                @torch.no_grad()
                def update(self, step, scale):
                    weights = [weight.detach().float() for weight in self.parameters.values()]
                    for average, decay in {list(decays.items())}:
                        torch._foreach_lerp_(list(self.tensors[average].values()), weights, 1 - decay)
                def finished(self): return self.tensors""")
    if average != "best":
        found.drop("stages.ema.__main__", "main", r"rows, split", r"with launch\.world", r"if name == 'best'")
    if not kept["power"]:
        found.drop(TRAIN, "main", r"with stage\.atomic\(snapshots")
        found.drop(LOOP, "train", r"spent =", r"if _crosses", r"_snapshot", r"scale = _prepare", r"last =", r"row =", r"run\.curve")
        found.shorten(LOOP, "train", "nats = _step(", """
            _step(run, batches, settings, _prepare(run, settings, clock), clock.spent(run.step, run.seconds) / clock.budget, world,
                  precision)""")
    if "ema" in left_out(tree):
        found.drop(TRAIN, "main", r"with stage\.atomic\(averages" if average == "final" else r"tensors\.save\(weights")
