"""What a name says about its value, in the words of the contest's scripts. A tag is such a statement.

VAL       made from validation tokens            TARGET   the token that is being predicted
TRAIN     made from training data                RANDOM   made by a random generator
LOSS      a loss or log-probability of tokens    PROB     a probability
GRAD      a gradient                             CONTEXT  cut to tokens before those that are scored
HASH      a hash that contains a target          HASHED   a table entry that such a hash chose
LOOKED    a table entry that a target chose      PROPERTY the same, of a table of what tokens are
BYTES     bytes of a token                       SUM      summed over tokens
"""

import re
from functools import lru_cache

VAL, TARGET, TRAIN, RANDOM, LOSS, PROB = "val", "target", "train", "random", "loss", "prob"
GRAD, CONTEXT, HASH, HASHED, LOOKED, BYTES, SUM = "grad", "context", "hash", "hashed", "looked", "bytes", "sum"
PROPERTY = "property"
SELF = "self-generated"

_DATA = (
    r"tok|toks|token|tokens|data|dataset|ids|np|seq|seqs|sequences?|x|y|xs|ys|inputs?|targets?|docs?|documents?|stream|batch|batches|text|"
    r"split|set|loader|shards?|files?|glob|path|paths|iter|chunks?|windows?|stream|arr|array|tensor|u16|t|mm|cpu|gpu|bin"
)
VALIDATION = re.compile(
    rf"^_?(h_)?(val|valid|validation|eval|fineweb_val|heldout_val)_?({_DATA})(_({_DATA}))*\d*$|^_?({_DATA})_(val|valid|validation)$"
)
NO_DATA = re.compile(
    r"loss|bpb|every|freq|step|interval|time|ms$|seconds|size|bsz|len|byte|count|metric|score|ppl|enabled|acc|sum|lut|num|^n_"
)
VALIDATION_TEXT = re.compile(r"fineweb_val|_val_[^ ]*\.bin|(^|[/_ -])val(idation)?([/_ .-]|$)", re.IGNORECASE)
EVALUATES = re.compile(r"(^|_)(eval|evaluate|score|scoring|validate|validation|slot|ttt|etlb|test_time)(_|$)", re.IGNORECASE)
LOSS_NAME = re.compile(r"(^|_)(loss|losses|nll|nlls|ce|nats|ptl|logp|log_p|logprob|logprobs|lp|bits)(_|\d|$)|loss$|nll$")
NO_LOSS = re.compile(r"count|tokens|byte|every|scale|fn$|weight")
LOSS_SUM = re.compile(
    r"(loss|nll|nats|bits|bpb|ce).*(sum|total|acc)|(sum|total|acc|tot).*(loss|nll|nats|bits|ce)|^(\w+_)?(loss|nll)(es|s)?$"
)
TARGET_NAME = re.compile(
    r"^(y|ys|yb|tgt|tgts|target|targets|label|labels|next_tok|next_token|true_tok|true_token|realized)(_|$|\d)|_(tgt|tgts|target|targets|labels?)(_|$)|^y_"
)
TRAIN_NAME = re.compile(r"(^|_)train(ing)?(_|$)|^(data)?loader$|^next_batch$|_loader$")
OPTIMIZER = re.compile(r"opt|adam|sgd|muon|lbfgs|soap", re.IGNORECASE)
GATE = re.compile(r"gate|hint|boost|tilt|within|alpha|bonus|word_start|starts?_(new_)?word", re.IGNORECASE)
PROPERTY_NAME = re.compile(r"(^|_)(is|has)_|start|bound|space|word|lut|class|kind|type|flag|blank|property", re.IGNORECASE)
BYTE_NAME = re.compile(r"byte|^n_?b$|lens?$|utf8|has_leading|boundary|blank|space", re.IGNORECASE)
CONTEXT_NAME = re.compile(
    r"(^|_)(ctx|context|prefix|past|seen|history|already)(_|$)|"
    r"^(prev|previous|last|scored)_(chunk|tok|tokens|x|y|batch|window|docs?|seqs?|seg|segment|targets|inputs)$",
    re.IGNORECASE,
)
BEFORE = re.compile(r"\(?\s*(\w+)\s*-\s*1\s*\)?\s*(\*[^:]*:\s*\(?\s*\1\s*\)?\s*\*|$)")  # tokens[(i - 1) * n : i * n], chunks[i - 1]
CALIBRATES = re.compile(r"hessian|calib|gptq|awq|activation_stat|collect_stat", re.IGNORECASE)
NO_CALIBRATION = re.compile(r"^_?(eval|dequant|timed|score|log|print|load|time)|eval", re.IGNORECASE)
WRITES = re.compile(r"^(_?serialize|_?quantize|gptq|_?compress|_?pack|save|export|write_artifact|torch_save|mixed_quantize)", re.IGNORECASE)
RANDOM_MAKERS = re.compile(r"^(rand|randn|randint|randperm|normal_?|uniform_?|random|integers|choice|rand_like|randn_like|multinomial)$")
FRESH_MAKERS = re.compile(
    r"^(zeros|ones|empty|full|eye|arange|zeros_like|ones_like|empty_like|full_like|new_zeros|new_empty|linspace|tensor_like)$"
)
LOSS_MAKERS = re.compile(
    r"cross_entropy|nll_loss|log_?softmax|crossentropyloss|logsumexp|forward_(nll|loss|ttt)|per_token_loss|^ce$|nll", re.IGNORECASE
)
PROB_MAKERS = re.compile(r"^_?(softmax|exp|sigmoid|to_probs?)$")
SUM_MAKERS = re.compile(r"^(sum|mean|item|nansum)$")
NETWORK = ("requests", "urllib", "http", "socket", "huggingface_hub", "datasets", "boto3", "ftplib", "paramiko", "aiohttp", "httpx", "wget")


@lru_cache(maxsize=20_000)
def tags(name: str) -> frozenset[str]:
    """What a name says by itself."""
    found = set()
    lower = name.lower() if not name.isupper() else name
    if VALIDATION.search(lower) and not NO_DATA.search(lower):
        found.add(VAL)
    if TARGET_NAME.search(lower):
        found.add(TARGET)
    if TRAIN_NAME.search(lower):
        found.add(TRAIN)
    if LOSS_NAME.search(lower) and not NO_LOSS.search(lower):
        found.add(LOSS)
    if CONTEXT_NAME.search(lower):
        found.add(CONTEXT)
    if re.search(r"(^|_)grads?$", lower):
        found.add(GRAD)
    if BYTE_NAME.search(lower):
        found.add(BYTES)
    return frozenset(found)


def is_validation(name: str) -> bool:
    return VAL in tags(name)
