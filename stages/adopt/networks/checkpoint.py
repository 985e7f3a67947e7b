"""A safetensors checkpoint of a causal language model in a local folder, as `save_pretrained` of transformers writes it. Nothing else is
read: no pickle, no code that comes with a model, nothing from the network. Tensors are read one by one.
"""

import json
import math
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stages.lib.node.params import require

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
KINDS = ("F32", "F16", "BF16")
ATTENTION = "eager"  # it is always given its mask, so a layer that runs by itself is causal too


class Checkpoint:
    """The configuration, the network on the meta device, and tensors by the names of the network. ValueError with one sentence if the
    folder holds anything else, if a tensor is missing, left over, of another size, or no number of KINDS."""

    def __init__(self, folder: Path):
        self.folder = folder
        require((folder / "config.json").is_file(), f"{folder} has no config.json; give the folder that save_pretrained wrote")
        self.config, self.network = _network(folder)
        self.places = self._found()
        expected = {name: tuple(tensor.shape) for name, tensor in self.network.state_dict().items()}
        prefix = f"{self.network.base_model_prefix}."
        if not any(name.startswith(prefix) for name in self.places):  # a network that was saved without its head
            self.places = {prefix + name: place for name, place in self.places.items()}
        ignored = getattr(self.network, "_keys_to_ignore_on_load_unexpected", None) or ()
        self.places = {
            name: place for name, place in self.places.items() if name in expected or not any(re.search(word, name) for word in ignored)
        }
        tied = getattr(self.network, "_tied_weights_keys", None) or {}
        self.tied = dict(tied) if self.config.tie_word_embeddings and isinstance(tied, dict) else {}
        missing = sorted(expected.keys() - self.places.keys() - self.tied.keys())
        left = sorted(self.places.keys() - expected.keys())
        require(not missing, f"{folder} lacks the tensor {missing[:1]} and {max(0, len(missing) - 1)} others; save it with save_pretrained")
        require(not left, f"{folder} has the tensor {left[:1]} and {max(0, len(left) - 1)} others that its config.json knows nothing of")
        self.num_bytes, self.num_weights = 0, 0
        for name, (path, key) in sorted(self.places.items()):
            with _opened(path) as file:
                part = file.get_slice(key)
                kind, shape = part.get_dtype(), tuple(part.get_shape())
            require(
                kind in KINDS, f"{name} in {path} is {kind}; a checkpoint takes {', '.join(KINDS)}: it is quantized already, or no weight"
            )
            require(shape == expected[name], f"{name} in {path} has the size {shape}, its config.json asks for {expected[name]}")
            if name not in self.tied:
                self.num_weights += math.prod(shape)
                self.num_bytes += math.prod(shape) * (4 if kind == "F32" else 2)

    def get(self, name: str) -> Tensor:
        """float32. ValueError if it is not finite."""
        path, key = self.places[self.tied.get(name, name)]
        with _opened(path) as file:
            tensor = file.get_tensor(key).float()
        require(bool(torch.isfinite(tensor).all()), f"{name} in {path} is not finite; the training has diverged, or the file is damaged")
        return tensor

    def layers(self) -> tuple[str, nn.ModuleList]:
        """The name of the list of layers, and the list, on the meta device."""
        depth = self.config.num_hidden_layers
        found = [(name, part) for name, part in self.network.named_modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
        require(len(found) >= 1, f"{self.folder}: no list of {depth} layers was found in {type(self.network).__name__}")
        kinds = {type(layer) for layer in found[0][1]} | set(getattr(self.config, "layer_types", None) or [])
        require(
            len(kinds) <= 2 - (not getattr(self.config, "layer_types", None)),
            f"{self.folder}: layers of several kinds, {', '.join(sorted(map(str, kinds)))}, cannot be gone through one by one",
        )
        return found[0]

    def _found(self) -> dict[str, tuple[Path, str]]:
        """File and name in it of every tensor."""
        if (self.folder / INDEX).is_file():
            try:
                names = json.loads((self.folder / INDEX).read_text())["weight_map"]
                paths = {name: self.folder / file for name, file in names.items() if Path(file).name == file}
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{self.folder / INDEX} is damaged; save the model again with save_pretrained") from None
            require(len(paths) == len(names), f"{self.folder / INDEX} names files outside of its folder")
            for path in sorted(set(paths.values())):
                with _opened(path) as file:
                    absent = [name for name, place in paths.items() if place == path and name not in file.keys()]  # noqa: SIM118
                require(not absent, f"{path} lacks {absent[:1]}, which {INDEX} names")
            return {name: (path, name) for name, path in paths.items()}
        others = sorted(path.name for path in self.folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        require(
            (self.folder / ONE).is_file(),
            f"{self.folder} has no {ONE}"
            + (f", only {others[0]}, a pickle, which is not read" if others else "")
            + "; save the model with save_pretrained",
        )
        with _opened(self.folder / ONE) as file:
            return {name: (self.folder / ONE, name) for name in file.keys()}  # noqa: SIM118


def _opened(path: Path):
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing or no safetensors file ({str(error).splitlines()[0]})") from None


def _network(folder: Path):
    try:
        import transformers
    except ModuleNotFoundError:
        raise ValueError("this needs the package transformers; install it with: pip install -c constraints.txt transformers") from None
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.use_cache, config.dtype = False, torch.float32  # else buffers, such as the rotary frequencies, have the type of the weights
        with torch.device("meta"):
            network = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=ATTENTION)
        return network.config, network
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: transformers makes no causal language model of its config.json ({reason})") from None
