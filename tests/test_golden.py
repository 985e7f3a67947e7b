"""Blobs that were written once are read for ever: each in tests/golden, of every codec, filter and coder."""

import json
from pathlib import Path

import pytest

from stages.runtime.base import plugin
from stages.runtime.blob import container, header
from stages.runtime.blob.codecs import MissingProgram
from tests.golden import make

CONTENTS = json.loads(make.INDEX.read_text())


@pytest.mark.parametrize("name", CONTENTS)
def test_golden_blob_has_the_content_that_was_coded(name):
    try:
        model = container.unpack((make.FOLDER / name).read_bytes())
    except MissingProgram as missing:
        pytest.skip(str(missing))
    assert make.content(model) == CONTENTS[name]


def test_every_blob_in_the_folder_is_listed():
    assert {path.name for path in Path(make.FOLDER).glob("*.blob")} == set(CONTENTS)


def test_every_codec_filter_and_coder_has_a_golden_blob():
    """A coder with a folder of its own, tests/golden/<coder>, has its blobs there."""
    used = {plugin_name for name in CONTENTS for plugin_name in header.read((make.FOLDER / name).read_bytes()).plugins()}
    for kind in ("codecs", "filters", "coders"):
        own = {name for name in plugin.names(kind) if (make.FOLDER / name).is_dir()}
        assert {f"{kind}/{name}" for name in set(plugin.names(kind)) - own} <= used, f"add it to tests/golden/make.py: {kind}"


def test_golden_model_of_version_2_is_what_the_script_makes():
    """Its numbers are integers' arithmetic, so that a new codec's blob has the same content as the old ones'."""
    assert set(CONTENTS.values()) == {make.content(make.model())}
