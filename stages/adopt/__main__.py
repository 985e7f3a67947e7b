"""Make an artifact of weights that were trained elsewhere, and compare it with the published way of packing them (docs/adopt.md).

python -m stages.adopt final_model.pt --stack pr1855 --tokens DIR       all of it, in artifacts/adopt/final_model
python -m stages.adopt final_model.pt --convert final.safetensors       only read the pickle, in a jail

The checkpoint is a .pt or .safetensors file with the names of a published stack, or a folder of them with one called final. DIR has token
shards of the contest and their tokenizer. Our quantizer aims at the layer error of the published one. If the command is killed, the same
command goes on behind the last finished step.
"""

import argparse
import shutil
import sys
from pathlib import Path

import yaml

from stages.adopt import convert, packing, plan
from stages.lib.node import command, files, params
from stages.lib.node.params import require
from stages.recipes import __main__ as recipes
from stages.recipes import describe
from stages.train import adoption

FOLDER = Path("artifacts/adopt")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.adopt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a .pt or .safetensors file, or a folder of them")
    parser.add_argument("--convert", type=Path, metavar="FILE", help="only write this safetensors file from a .pt file")
    parser.add_argument("--stack", help="the published stack whose recipe it was trained with")
    parser.add_argument("--tokens", type=Path, metavar="DIR", help="folder of token shards and their tokenizer")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help="sizes of the recipe (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a parameter of params.yaml; may be repeated")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where to work (default: {FOLDER}/<name of the checkpoint>)")
    chosen = parser.parse_args(argv)
    with command.sentences("adopt"):
        if chosen.convert is not None:
            files.check_writable(chosen.convert, "--convert", is_file=True)
            convert.to_safetensors(chosen.checkpoint, chosen.convert)
            print(f"{chosen.convert}: {chosen.convert.stat().st_size:,} bytes, as {chosen.checkpoint} has them")
            return 0
        require(chosen.stack is not None, "name the stack that it was trained with: --stack pr1855, or another of python -m stages.recipes")
        require(chosen.tokens is not None, "name the folder of token shards that val and calibration are taken from: --tokens DIR")
        require(
            chosen.tokens.is_dir(),
            f"--tokens {chosen.tokens} is no folder; give the one that holds fineweb_val_*.bin and fineweb_train_*.bin",
        )
        folder = chosen.out or FOLDER / chosen.checkpoint.stem
        files.check_writable(folder, "--out")
        tree = params.read(Path("params.yaml"))
        recipe = recipes.scaled(chosen.stack, chosen.scale, tree)
        weights = bring(chosen.checkpoint, folder / "weights")
        trees = plan.trees(
            tree, recipe, _given(chosen.set, tree), stack=chosen.stack, tokens=chosen.tokens, sha256=adoption.sha256(weights)
        )
        config = describe.network(trees["ours"]).config
        for file in adoption.checkpoints(weights).values():
            adoption.read(file, chosen.stack, config)  # before anything is prepared
        packing.run(folder, trees)
    return 0


def bring(checkpoint: Path, weights: Path) -> Path:
    """A folder of safetensors files, one of them final, made from a file or folder of either kind."""
    require(checkpoint.exists(), f"{checkpoint} is missing; check the spelling")
    found = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
    with files.atomic(weights) as partial:
        partial.mkdir(parents=True)
        for file in found:
            name = file.stem if checkpoint.is_dir() else adoption.FINAL
            require(file.suffix in (".pt", adoption.SUFFIX), f"{file} is neither a .pt nor a .safetensors file; move it elsewhere")
            (convert.to_safetensors if file.suffix == ".pt" else shutil.copyfile)(file, partial / f"{name}{adoption.SUFFIX}")
    return weights


def _given(words: list[str], tree: dict) -> dict:
    """Values by path from `path=value`, where the value is YAML."""
    out = {}
    for word in words:
        path, sign, text = word.partition("=")
        require(bool(sign), f"--set {word!r} has no =; it takes path=value, such as calibrate.sequences=64")
        params.lookup(tree, path)
        out[path] = yaml.safe_load(text)
    return out


if __name__ == "__main__":
    sys.exit(main())
