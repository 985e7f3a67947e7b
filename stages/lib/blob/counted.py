"""What counts against the cap: the one script, and the model that it leaves, as the contest counts code and model.

    artifact = bytes of train_gpt.py + bytes of model.blob + bytes of memory.bin

This is the only definition. The stage `fill_cap` aims at it, `package` and the audit judge by it, and recipes are estimated by it. The
tokenizer does not count, and neither does `submission.pyz`, the form in which the artifact scores by itself; its size is reported beside.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from stages.lib.node.params import AtLeastOne, nearest, require

CAP_BYTES = 16_000_000  # of the contest


@dataclass(frozen=True)
class PackageSettings:
    """What is packed, how the artifact scores by default, and the limit on the counted size in bytes."""

    SECTION: ClassVar[str] = "package"
    blob: str
    evaluators: tuple[str, ...]
    evaluator: str
    options: dict
    other_options: dict
    cap_bytes: AtLeastOne


@dataclass(frozen=True)
class CompressSettings:
    """The runs, one of which ships."""

    SECTION: ClassVar[str] = "compress"
    runs: dict


@dataclass(frozen=True)
class Artifact:
    """Sizes in bytes: of the script, of the blob with the weights, of the train text that ships, and of the cap on all together."""

    code_bytes: int
    model_bytes: int
    memory_bytes: int
    cap_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.code_bytes + self.model_bytes + self.memory_bytes

    @property
    def over_cap_bytes(self) -> int:
        """By how much the cap is exceeded; 0 if the artifact fits."""
        return max(0, self.total_bytes - self.cap_bytes)

    def sentence(self, weights: int) -> str:
        """The size beside the cap, and what would make it fit. `weights`: the number of weights in the blob."""
        memory = f", {self.memory_bytes:,} memory" if self.memory_bytes else ""
        size = f"{self.total_bytes:,} bytes ({self.code_bytes:,} script, {self.model_bytes:,} model{memory})"
        if not self.over_cap_bytes:
            return f"{size}, {self.cap_bytes - self.total_bytes:,} below the cap of {self.cap_bytes:,}"
        room = max(0, self.cap_bytes - self.code_bytes - self.memory_bytes)
        has, needs = 8 * self.model_bytes / weights, 8 * room / weights
        return (
            f"{size}, {self.over_cap_bytes:,} over the cap of {self.cap_bytes:,}; to fit, the model may take {needs:.3f} bits per weight "
            f"instead of {has:.3f}: set quantize.entropy.target_bytes to auto and a group's method to entropy, lower its bits, raise its "
            "clip, choose another compressor, lower memory.bytes, or make the model smaller"
        )


def shipped(blob: str, runs: Iterable[str]) -> list[str]:
    """The runs of compress.runs among which `package.blob` chooses: the smallest blob ships. ValueError if it names none of them."""
    runs = list(runs)
    kind, _, run = blob.partition("/")
    require(
        blob == "smallest" or (kind == "compress" and run in runs),
        f"package.blob is {blob!r}; it takes smallest | {' | '.join(f'compress/{name}' for name in runs)}{nearest(run, runs)}",
    )
    return runs if blob == "smallest" else [run]
