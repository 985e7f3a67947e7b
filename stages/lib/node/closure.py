"""Which files of this repository a module imports, directly or through others. The source is read; nothing is executed.

DVC does not follow imports (treeverse/dvc #1401, #9195). A test compares this list with the folders of every node in dvc.yaml; `package`
and `script` use it to decide which modules ship. Plug-ins are loaded by name, so this list does not contain them.
"""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def files(module: str, *, root: Path = ROOT) -> list[str]:
    """Repo-relative paths of `module` and everything under `stages` that it imports, sorted."""
    found: set[Path] = set()
    _walk(module, root, found)
    return sorted(str(path.relative_to(root)) for path in found)


def paths(*modules: str) -> list[Path]:
    """The same for several modules, as absolute paths. Used for keys that must change with the code."""
    return [ROOT / path for path in sorted({path for module in modules for path in files(module)})]


def _walk(module: str, root: Path, found: set[Path]) -> None:
    base = root.joinpath(*module.split("."))
    parts = module.split(".")
    for n in range(1, len(parts)):  # importing a.b.c runs a/__init__.py and a/b/__init__.py
        package = root.joinpath(*parts[:n], "__init__.py")
        if package.is_file() and package not in found:
            _visit(package, ".".join(parts[:n]), True, root, found)
    for path, is_package in ((base.with_suffix(".py"), False), (base / "__init__.py", True)):
        if path.is_file() and path not in found:
            _visit(path, module, is_package, root, found)


def _visit(path: Path, module: str, is_package: bool, root: Path, found: set[Path]) -> None:
    found.add(path)
    for target in _imported(path, path.stat().st_mtime_ns, module, is_package):
        _walk(target, root, found)


@functools.cache
def _imported(path: Path, changed: int, module: str, is_package: bool) -> tuple[str, ...]:
    """What a file imports of ours, parsed once: many modules lead to the same file. `changed`: an edited file is another."""
    targets = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            prefix = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*prefix, *(node.module.split(".") if node.module else [])])
            targets += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(target for target in targets if target.split(".")[0] == "stages")
