"""Every command in the README and in docs/ is one that works here: its target, module, options, parameters and files exist.

A command is checked as far as that is quick, by the parser that it would meet; tests of the stages themselves run them in earnest.
A command that no check is written for fails: write one, a function in CHECKS.
"""

import functools
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from dvc.cli import parse_args

from stages.lib.node import params, stage
from stages.runtime import entry
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS = ("make ", "dvc ", "python ", "torchrun ")  # what makes a piece of inline code a command
# what stands in a command for what only its reader knows
PLACEHOLDER = re.compile(r"\b(REV|NAME|FILE|FOLDER|HOST|URL|SEEDS?)\b|<[\w ]+>|\.\.\.|…")


def commands(text: str) -> list[str]:
    """Every command of a page: the lines of its sh blocks, and inline code that begins like one."""
    found, without = [], text
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line for line in lines if line.strip() and not line.startswith("#")]
    without = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found += [span for span in re.findall(r"`([^`\n]+)`", without) if span.startswith(STARTS)]
    return [" ".join(command.split()) for command in found]


RUN_ELSEWHERE = "first-hour.md"  # tests/test_first_hour.py runs all of its commands
CASES = [
    (path.name, command)
    for path in PAGES
    if path.name != RUN_ELSEWHERE
    for command in dict.fromkeys(commands(path.read_text(encoding="utf-8")))
]


def first_of_each_program(cases: list[tuple[str, str]]) -> list:
    """The cases; each further command of a program of Python, which takes a second to start, is slow."""
    found, seen = [], set()
    for page, command in cases:
        program = tuple(command.split()[:3])
        marks = pytest.mark.slow if program[0] == "python" and program in seen else ()
        found.append(pytest.param(page, command, marks=marks, id=f"{page}: {command}"))
        seen.add(program)
    return found


@pytest.mark.parametrize("page, command", first_of_each_program(CASES))
def test_command_of_the_docs_is_one_that_works(page, command):
    check(command)


def test_every_page_is_read_and_the_readme_has_commands_of_every_kind():
    heads = {command.split()[0] for page, command in CASES if page == "README.md"}
    assert heads >= {"make", "dvc", "python"} and len(CASES) > 25
    assert commands("a `make x` b\n```sh\ndvc y \\\n    z   # why\n\n```\n```python\nno()\n```\n`not one`") == ["dvc y z # why", "make x"]


def check(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] not in CHECKS:
        raise AssertionError(f"{command!r} is in the docs, but nothing here checks what begins with {words[0]!r}; write a check for it")
    CHECKS[words[0]](words)


def check_make(words: list[str]) -> None:
    """The targets and variables exist, and make would know what to do."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        name, is_variable, value = word.partition("=")
        if is_variable:
            assert f"$({name})" in makefile, f"the Makefile does not use {name}"
            if name == "NAME" and not PLACEHOLDER.search(value):
                assert (ROOT / f"stages/recipes/{value}.yaml").is_file(), f"there is no recipe {value}"
        else:
            assert re.search(rf"^\.PHONY:.* {name}( |$)", makefile, re.MULTILINE), f"the Makefile has no target {name}"
            told = re.search(r"^help:\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
            assert f"make {name}" in told or name == "help", f"make help hides {name}"
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_dvc(words: list[str]) -> None:
    """DVC's own parser takes it; nodes are in dvc.yaml; `-S` names parameters that exist, with values that their sections take."""
    arguments = parse_args(words[1:])
    nodes = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for target in getattr(arguments, "targets", None) or []:
        assert PLACEHOLDER.search(target) or target.partition("@")[0] in nodes or is_path(target), f"no such node: {target}"
    check_overrides(getattr(arguments, "set_param", None) or [])


def is_path(word: str) -> bool:
    """A file of the repository, the reader's own under data/, or the curves of train.live."""
    return word.startswith(("data/", "dvclive/")) or (ROOT / word).exists()


def check_overrides(overrides: list[str]) -> None:
    tree = params.read(ROOT / "params.yaml")
    for override in overrides:
        path, _, value = override.partition("=")
        parent, _, leaf = path.removeprefix("+").rpartition(".")
        node = params.lookup(tree, parent)
        assert path.startswith("+") or leaf in node, f"params.yaml has no {path}"
        is_sweep = "," in value and not value.startswith(("{", "["))
        node[leaf] = yaml.load(value.split(",")[0] if is_sweep else value, Loader=params.Yaml12Floats)
    for section in {override.removeprefix("+").split(".")[0] for override in overrides} - params.EXTRA_SECTIONS:
        for parameter in inspect.signature(importlib.import_module(f"stages.{section}.__main__").main).parameters.values():
            schema = parameter.annotation
            if is_dataclass(schema) and section == schema.SECTION:
                params.section(tree, schema)  # a value of another kind is a ValueError


def check_python(words: list[str]) -> None:
    options = [word for word in words[1:] if word.startswith("-")]
    rest = [word for word in words[1:] if not word.startswith("-")]
    if "-m" in options:
        check_module(words[words.index("-m") + 1], words[words.index("-m") + 2 :])
    elif rest[0].endswith("submission.pyz"):
        check_path(rest[0])
        entry._parser().parse_args(words[words.index(rest[0]) + 1 :])
        for word in rest[2:] if rest[1] != "generate" else ():  # it takes a text
            check_path(word)
    else:
        check_path(rest[0])
        check_help([str(ROOT / rest[0])], words[words.index(rest[0]) + 1 :])


def check_module(module: str, arguments: list[str]) -> None:
    if PLACEHOLDER.search(module):
        return
    assert importlib.util.find_spec(module) is not None, f"there is no module {module}"
    check_help(["-m", module], arguments)


def check_help(program: list[str], arguments: list[str]) -> None:
    """The program's own help names every option; positional arguments that look like paths exist."""
    for word in arguments:
        if word.startswith("--"):
            option = rf"(?<![\w-]){re.escape(word.partition('=')[0])}(?![\w-])"
            known = re.search(option, help_of(*program)) or re.search(option, help_of(*program, *arguments[:2]))  # some have two commands
            assert known, f"{' '.join(program)} has no option {word}"
        elif "/" in word and not PLACEHOLDER.search(word):
            check_path(word)


@functools.cache
def help_of(*program: str) -> str:
    done = subprocess.run([sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_path(word: str) -> None:
    """A file of the repository, what a stage writes, or the reader's own under data/."""
    if not word.startswith("artifacts/"):
        assert word.startswith("data/") or (ROOT / word).exists(), f"there is no {word}"
        return
    node = Path(word).parts[1]
    main = importlib.import_module(f"stages.{node}.__main__").main
    variants = [part for part in Path(word).parts[2:]] or [None]
    found = [
        path
        for variant in (None, *variants)
        for kind in ("outputs", "metrics", "plots")
        for path in getattr(stage.contract(main, variant=variant, resolve=False), kind)
    ]
    assert any(Path(word).is_relative_to(path) for path in found), f"no stage writes {word}"


def check_git(words: list[str]) -> None:
    """Of `git clone` the address is for the reader to fill in, and one folder follows; of others git knows command and options."""
    if words[1] == "clone":
        assert PLACEHOLDER.search(" ".join(words[2:-1])) and "/" not in words[-1]
        return
    done = subprocess.run(["git", words[1], "-h"], capture_output=True, text=True, check=False)
    assert done.returncode == 129, f"git has no command {words[1]}"
    usage = done.stdout + done.stderr
    for word in words[2:]:
        option = rf"(?<![\w-])--(\[no-\])?{word[2:]}(?![\w-])" if word.startswith("--") else rf"(?<![\w-]){re.escape(word)}(?![\w-])"
        assert not word.startswith("-") or word == "--" or re.search(option, usage), f"git {words[1]} has no option {word}"


def check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    arguments = get_args_parser().parse_args(words[1:])
    assert arguments.module
    check_module(arguments.training_script, arguments.training_script_args)


def check_cd(words: list[str]) -> None:
    """Into the folder that the line before made, or one of the repository."""
    assert words[1:] == ["caddie"] or (ROOT / words[1]).is_dir()


def check_cp(words: list[str]) -> None:
    """What is copied is there after a run."""
    for word in words[1:-1]:
        check_path(word)


def check_mkdir(words: list[str]) -> None:
    assert words[1] == "-p" and words[2].startswith("data/")


CHECKS = {
    "cd": check_cd,
    "cp": check_cp,
    "dvc": check_dvc,
    "git": check_git,
    "make": check_make,
    "mkdir": check_mkdir,
    "python": check_python,
    "torchrun": check_torchrun,
}


@pytest.mark.parametrize(
    "command, why",
    [
        ("make nonsense", "no target nonsense"),
        ("make recipe NAME=pr1", "no recipe pr1"),
        ("make recipe COLOUR=red", "does not use COLOUR"),
        ("dvc exp run -S train.nonsense=1", "has no train.nonsense"),
        ("dvc repro nonsense", "no such node"),
        ("python -m stages.nonsense", "no module stages.nonsense"),
        ("python -m stages.report --nonsense", "no option --nonsense"),
        ("python benchmarks/nonsense.py", "there is no benchmarks/nonsense.py"),
        ("python -I artifacts/package/nonsense.pyz show", "no stage writes"),
        ("cp artifacts/package/nonsense.bin data", "no stage writes"),
        ("git frobnicate", "no command frobnicate"),
        ("git commit --frobnicate", "no option --frobnicate"),
        ("frobnicate it", "nothing here checks"),
    ],
)
def test_command_that_would_not_work_is_caught(command, why):
    with pytest.raises(AssertionError, match=why):
        check(command)


@pytest.mark.parametrize("override", ["train.steps=many", "quantize.groups.mlp.method=magic"])
def test_value_that_a_section_does_not_take_is_caught(override):
    with pytest.raises(ValueError, match="it takes"):
        check(f"dvc exp run -S {override}")


@pytest.mark.parametrize("command", ["dvc exp run --nonsense", "dvc nonsense"])
def test_option_that_dvc_does_not_know_is_caught(command):
    with pytest.raises(Exception, match=r"parser|arguments|choice"):
        check(command)


def test_files_that_the_readme_links_to_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text):
            target = link[0] or link[1]
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"
