"""The architecture as data. Every checkpoint contains it, so no stage after `train` reads it from params.yaml."""

import dataclasses
from typing import Literal

MAX_SIZE = 1 << 20  # no dimension of a 16 MB model is close to it, but a damaged header may exceed it
MAY_BE_ZERO = ("mlp_negative_slope", "rope_trained_length")
INITIALISATIONS = ("published", "naive")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a GPT, and its features. Widths are numbers of features, lengths are in tokens. params.yaml has the sources."""

    vocabulary_size: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    mlp_negative_slope: float
    rope_dims: int
    rope_base: float
    rope_trained_length: int
    query_gain: float
    logit_softcap: float
    tied_head: bool
    embedding_std: float
    initialisation: Literal["published", "naive"]
    features: dict

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float):
                low = 0 if field.name in MAY_BE_ZERO else 5e-324  # the smallest positive number
                is_number = isinstance(value, (int, float) if field.type is float else int) and not isinstance(value, bool)
                if not is_number or not low <= value <= MAX_SIZE:
                    what = "positive " * bool(low) + field.type.__name__
                    raise ValueError(f"model.{field.name} is {value!r}; it takes a {what} up to {MAX_SIZE}")
        rotated = self.rope_dims % 2 == 0 and self.rope_dims <= self.width // self.num_heads
        for ok, sentence in (
            (self.width % self.num_heads == 0, f"model.width {self.width} must be divisible by num_heads {self.num_heads}"),
            (
                self.num_heads % self.num_kv_heads == 0,
                f"model.num_heads {self.num_heads} must be divisible by num_kv_heads {self.num_kv_heads}",
            ),
            (rotated, f"model.rope_dims {self.rope_dims} must be even and at most the head width"),
            (self.rope_trained_length == 0 or self.rope_dims > 2, "model.rope_trained_length needs rope_dims above 2; set it to 0 (off)"),
            (isinstance(self.tied_head, bool), f"model.tied_head is {self.tied_head!r}; it takes true | false"),
            (
                self.initialisation in INITIALISATIONS,
                f"model.initialisation is {self.initialisation!r}; it takes {' | '.join(INITIALISATIONS)}",
            ),
            (
                isinstance(self.features, dict) and all(isinstance(options, dict) for options in self.features.values()),
                f"model.features is {self.features!r}; it takes a mapping of features to mappings of options: {{xsa: {{last_layers: 4}}}}",
            ),
        ):
            if not ok:
                raise ValueError(sentence)
        object.__setattr__(self, "features", dict(sorted(self.features.items())))  # the order in which they act and are initialised

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Rebuild from JSON. ValueError if the keys are not exactly this version's."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(
                f"model configuration has keys {sorted(values)}, this version needs {sorted(names)}; use the Caddie version that wrote it"
            )
        return cls(**values)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)
