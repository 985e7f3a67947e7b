"""Parameters of a part: params.yaml with a recipe, at full size or in small, on the part's device."""

from pathlib import Path

from stages.lib.node import params
from stages.recipes import catalog, shrink

ROOT = Path(__file__).resolve().parents[2]


def of(name: str, device: str, *, small: bool, more: dict | None = None) -> dict:
    """The parsed tree. `more` are values by path that replace those of the recipe."""
    base = params.read(ROOT / "params.yaml")
    tree = catalog.applied(catalog.values(name, base), base)
    if small:
        tree = catalog.applied(shrink.values(tree), tree)
    places = {f"{section}.device": device for section, values in tree.items() if "device" in values}
    return catalog.applied(places | (more or {}), tree)


def recurs_from_the_start(tree: dict) -> dict:
    """Values by path with which the recurrence, where there is one, is on at every step: the state of most of a training's time."""
    features = tree["model"]["features"]
    if "depth_recurrence" not in features:
        return {}
    return {"model.features": features | {"depth_recurrence": features["depth_recurrence"] | {"start_step": 0, "start_fraction": 0.0}}}
