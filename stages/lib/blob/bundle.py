"""Build `submission.pyz`: a zip that Python can run. It holds the model, the tokenizer, the train text that the evaluator memory
counts, and only the code that scoring needs.

Equal inputs give equal bytes: entries are sorted and carry a fixed date.
"""

import functools
import io
import json
import zipfile
from pathlib import Path

import python_minifier

from stages.lib.blob.counted import PackageSettings
from stages.lib.node import closure
from stages.runtime.base import plugin
from stages.runtime.blob import header

PACKAGE, PROTOCOL = "caddie", 2
START = f"import sys\nfrom {PACKAGE}.entry import main\nsys.exit(main())\n"
STORED = ("memory.bin", "model.blob")  # they are already compressed
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold


def submission(blob: bytes, memory: bytes, tokenizer: bytes, config: dict, settings: PackageSettings) -> bytes:
    """The bytes of the pyz for a blob of the model that `config` describes, with the plug-ins that the blob names and the evaluators."""
    plugins = header.read(blob).plugins()
    manifest = {
        "format": 3,
        "protocol": PROTOCOL,
        "evaluator": settings.evaluator,
        "options": settings.options,
        "other_options": {name: settings.other_options[name] for name in settings.evaluators if name in settings.other_options},
        "evaluators": list(settings.evaluators),
        "plugins": plugins,
        "model": config,
    }
    sources = code(plugins=plugins, evaluators=settings.evaluators, features=tuple(config["features"]))
    return build(sources, manifest=manifest, blob=blob, memory=memory, tokenizer=tokenizer)


def code(*, plugins: list[str], evaluators: tuple[str, ...], features: tuple[str, ...]) -> dict[str, str]:
    """Source text by path inside the zip: all that the entry point and the plug-ins import. `plugins` are names such as codecs/brotli."""
    modules = [
        "stages.runtime.entry",
        *map(plugin.package, ("codecs", "coders", "filters", "lanes")),
        *(f"{plugin.package(kind)}.{name}" for kind, name in (plugin_name.split("/") for plugin_name in plugins)),
        *(f"{plugin.package('evaluators')}.{name}" for name in evaluators),
        *(f"{plugin.package('lanes')}.{name}" for name in evaluators if name in plugin.names("lanes")),
        *(f"{plugin.package('features')}.{name}" for name in features),
    ]
    files = sorted({path for module in modules for path in closure.files(module)})
    outside = [path for path in files if not path.startswith("stages/runtime/")]
    if outside:
        raise AssertionError(f"runtime code imports what does not ship: {outside}")
    return {"__main__.py": START, f"{PACKAGE}/__init__.py": ""} | {
        path.replace("stages/runtime", PACKAGE, 1): shortened((closure.ROOT / path).read_text(encoding="utf-8")) for path in files
    }


@functools.cache
def shortened(source: str, *, shared: frozenset[str] | None = None, arguments: bool = False) -> str:
    """The same program without docstrings and comments and with short local names: two thirds of the bytes, all of which count.

    `shared` are the names that other modules use. If it is given, all other names of the module are shortened too and assertions are
    removed. Annotations of fields stay because settings are checked against them. Annotations of arguments stay unless `arguments` is true.
    """
    annotations = python_minifier.RemoveAnnotationsOptions(
        remove_variable_annotations=True,
        remove_return_annotations=True,
        remove_argument_annotations=arguments,
        remove_class_attribute_annotations=False,
    )
    return python_minifier.minify(
        source,
        remove_literal_statements=True,
        remove_annotations=annotations,
        hoist_literals=False,
        rename_globals=shared is not None,
        preserve_globals=sorted(shared or ()),
        remove_asserts=shared is not None,
    )


def build(sources: dict[str, str], *, manifest: dict, blob: bytes, memory: bytes, tokenizer: bytes) -> bytes:
    """The bytes of the pyz."""
    data = {
        "manifest.json": json.dumps(manifest, sort_keys=True).encode(),
        "memory.bin": memory,
        "model.blob": blob,
        "tokenizer.model": tokenizer,
    }
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for path, source in sorted(sources.items()):
            _add(archive, path, source.encode(), zipfile.ZIP_DEFLATED)
        for name, content in sorted(data.items()):
            method = zipfile.ZIP_STORED if name in STORED else zipfile.ZIP_DEFLATED
            _add(archive, f"{PACKAGE}/data/{name}", content, method)
    return sink.getvalue()


def _add(archive: zipfile.ZipFile, path: str, content: bytes, method: int) -> None:
    entry = zipfile.ZipInfo(str(Path(path).as_posix()), EPOCH)
    entry.compress_type, entry.create_system, entry.external_attr = method, 3, 0o644 << 16
    archive.writestr(entry, content, compresslevel=9)
