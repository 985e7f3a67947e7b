"""gpu.json: the machine, and for each part its status, its seconds and the rows that it noted. It is written anew after each part."""

import hashlib
from pathlib import Path

from stages.lib.node import files

DONE = "done"  # the others: failed, stopped (at its limit), not started
SAME = ("gpu", "processor", "torch")  # facts by which two machines are told apart


class Record:
    """The results in one file. What an earlier run left there is read first, and stays until its part runs again."""

    def __init__(self, path: Path):
        self.path, self.content = path, {}
        if path.is_file():
            self.content = files.read_json(path, required=("device", "machine", "parts"))

    def begin(self, machine: dict, device: str) -> None:
        """Note the machine. ValueError if the file has results of another machine or of the other form."""
        if self.content:
            before, now = ([found[key] for key in SAME] for found in (self.content["machine"], machine))
            if (self.content["device"], before) != (device, now):
                raise ValueError(f"{self.path} is of {self.content['device']} on {before}, this is {device} on {now}; give another --out")
        self.content = {"device": device, "machine": machine, "parts": self.content.get("parts", {})}
        files.write_json(self.path, self.content)

    def has(self, name: str, code: str) -> bool:
        """Whether the part was finished with this code."""
        part = self.content["parts"].get(name, {})
        return part.get("status") == DONE and part.get("code") == code

    def keep(self, name: str, result: dict) -> None:
        self.content["parts"][name] = result
        files.write_json(self.path, self.content)


def code_key(root: Path) -> str:
    """16 hex digits that change with the code that is measured, and with the code that measures."""
    digest = hashlib.sha256((root / "params.yaml").read_bytes())
    paths = [*(root / "stages").rglob("*.py"), *(root / "stages/recipes").glob("*.yaml"), *(root / "benchmarks").rglob("*.py")]
    for path in sorted(paths):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
