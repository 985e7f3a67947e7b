"""Which node was made from which, and which have seen the val split, according to dvc.lock, which records what every stage read.

A node touches val if it reads val, or reads the output of a node that touches val. `prepare`, which splits the documents, is the only
node that may see all of them. Nodes after the artifact must touch val to make a score; if a node before it does, no score is legal.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.lib.dvc import dvc_lock

SHIPS, ITSELF = "package", "report"
# node -> the section that names its variants
BY_RUN = {"plain_score": "plain_score", "compress": "compress", "evaluate": "evaluate", "audit": "evaluate"}


@dataclass(frozen=True)
class Box:
    """One node, with those of its variants that share all these values. `ships`: it makes the artifact or something that goes into it."""

    node: str
    variants: tuple[str, ...]
    reads_val: bool
    touches_val: bool
    ships: bool

    @property
    def name(self) -> str:
        return f"{self.node}@{','.join(self.variants)}" if self.variants else self.node


@dataclass(frozen=True)
class Graph:
    """Boxes from the top down, and links (from, to) by index. A link is left out if a longer path connects the same boxes."""

    boxes: tuple[Box, ...]
    links: tuple[tuple[int, int], ...]
    reads: dict[str, tuple[str, ...]]  # stage -> what it read under artifacts/


def load(path: Path, *, scored_after: Iterable[str], compress_runs: Iterable[str], evaluate_runs: Iterable[str]) -> Graph:
    """The graph of the nodes of a dvc.lock, without runs that params.yaml no longer names. It has no boxes if the file does not exist."""
    if not path.is_file():
        return Graph((), (), {})
    stages = dvc_lock.read(path)
    runs = {"plain_score": set(scored_after), "compress": set(compress_runs), "evaluate": set(evaluate_runs)}

    def wanted(name: str) -> bool:
        node, _, variant = name.partition("@")
        return node != ITSELF and (node not in BY_RUN or variant in runs[BY_RUN[node]])

    return graph({name: entry for name, entry in stages.items() if wanted(name)})


def graph(stages: dict) -> Graph:
    """The graph of the parsed stages of a dvc.lock."""
    made_by = dvc_lock.makers(stages)
    reads = {
        name: tuple(dep["path"] for dep in entry.get("deps", []) if dep["path"].startswith("artifacts/")) for name, entry in stages.items()
    }
    parents = {name: {maker for path in paths for maker in dvc_lock.makers_of(path, made_by)} - {name} for name, paths in reads.items()}
    order = _from_the_top(parents)
    direct = {name for name in order if name != dvc_lock.ROOT_STAGE and any(map(dvc_lock.touches_val, reads[name]))}
    touched: set[str] = set()
    for name in order:
        if name in direct or (parents[name] & touched and name != dvc_lock.ROOT_STAGE):
            touched.add(name)
    shipped = _above({name for name in order if name == SHIPS}, parents)
    keys: dict[tuple, list[str]] = {}
    for name in order:
        keys.setdefault((name.partition("@")[0], name in touched, name in shipped), []).append(name)
    boxes = tuple(
        Box(node, tuple(name.partition("@")[2] for name in names if "@" in name), any(name in direct for name in names), is_touched, ships)
        for (node, is_touched, ships), names in keys.items()
    )
    place = {name: i for i, names in enumerate(keys.values()) for name in names}
    links = {(place[parent], place[name]) for name in order for parent in parents[name]}
    links = {(a, b) for a, b in links if a != b}
    return Graph(boxes, tuple(sorted(link for link in links if not _another_way(*link, links))), {name: reads[name] for name in order})


def spoiled(found: Graph) -> str:
    """A sentence that names the nodes before the artifact that have seen val; empty if there are none."""
    names = [box.name for box in found.boxes if box.ships and box.touches_val]
    return f"the artifact descends from the validation split, through {', '.join(names)}: no score of it is legal" if names else ""


def table(found: Graph) -> pd.DataFrame:
    """One row per box: whether the artifact is made from it, whether it touches val, and what its stages read."""
    rows = [
        (
            box.name,
            box.ships,
            "reads it" if box.reads_val else "descends from it" if box.touches_val else "",
            ", ".join(dict.fromkeys(path for stage, paths in found.reads.items() if _belongs(stage, box) for path in paths)),
        )
        for box in found.boxes
    ]
    return pd.DataFrame(rows, columns=["node", "above_the_artifact", "val", "reads"], dtype=object)


def ranks(found: Graph) -> list[int]:
    """For each box, the length of the longest path to it."""
    out = [0] * len(found.boxes)
    for _ in found.boxes:  # no path is longer than the number of boxes
        for a, b in found.links:
            out[b] = max(out[b], out[a] + 1)
    return out


def _belongs(stage: str, box: Box) -> bool:
    node, _, variant = stage.partition("@")
    return node == box.node and (variant in box.variants if variant else not box.variants)


def _from_the_top(parents: dict[str, set[str]]) -> list[str]:
    """The stages in topological order; otherwise in the order of the file."""
    done: list[str] = []
    while len(done) < len(parents):
        ready = [name for name in parents if name not in done and parents[name] <= set(done)]
        if not ready:
            raise ValueError("dvc.lock goes in a circle; delete it and run: dvc repro (finished stages are cached)")
        done += ready
    return done


def _above(names: set[str], parents: dict[str, set[str]]) -> set[str]:
    found, queue = set(names), list(names)
    while queue:
        new = parents[queue.pop()] - found
        found |= new
        queue += new
    return found


def _another_way(start: int, end: int, links: set[tuple[int, int]]) -> bool:
    """Whether a path from start to end goes through another box."""
    queue, seen = [b for a, b in links if a == start and b != end], set()
    while queue:
        here = queue.pop()
        if here == end:
            return True
        if here not in seen:
            seen.add(here)
            queue += [b for a, b in links if a == here]
    return False
