"""The architecture as data. It travels inside every checkpoint, so nothing after `train` reads params.yaml for it."""

import dataclasses

MAX_SIZE = 1 << 20  # no dimension of a 16 MB model comes near it; a damaged header might

@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a GPT; all widths in units of features, lengths in tokens."""

    vocabulary_size: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    rope_dims: int
    rope_base: float
    query_gain: float
    logit_softcap: float
    embedding_std: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float) if field.type is float else int) or not 0 < value <= MAX_SIZE:
                raise ValueError(f"model.{field.name} is {value!r}; it takes a positive {field.type.__name__} up to {MAX_SIZE}")
        for ok, sentence in (
            (self.width % self.num_heads == 0, f"model.width {self.width} must be divisible by num_heads {self.num_heads}"),
            (self.num_heads % self.num_kv_heads == 0,
             f"model.num_heads {self.num_heads} must be divisible by num_kv_heads {self.num_kv_heads}"),
            (self.rope_dims % 2 == 0 and self.rope_dims <= self.width // self.num_heads,
             f"model.rope_dims {self.rope_dims} must be even and at most the head width"),
        ):
            if not ok:
                raise ValueError(sentence)

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Rebuild from JSON. ValueError if the keys are not exactly this version's."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"model configuration has keys {sorted(values)}, this version needs {sorted(names)}; "
                             "use the Caddie version that wrote it")
        return cls(**values)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)
