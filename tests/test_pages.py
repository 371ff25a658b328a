"""CONTRIBUTING, SECURITY, docs/security.md, docs/versioning.md and the pre-commit hooks say what is so."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import click
import pytest

import zsl_runtime
from zsl_runtime.bundle.manifest import FORMATS
from zsl_runtime.pixels import pixels
from zsl_runtime.trt import trust
from zsl_train.methods import METHODS
from zsl_train.recipe import Recipe
from zsl_train.training import run_folder

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/versioning.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def options(command: click.Command) -> set[str]:
    """Every option of a command and of those below it."""
    found = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    for sub in command.commands.values() if isinstance(command, click.Group) else ():
        found |= options(sub)
    return found


def commands() -> dict[str, click.Command]:
    modules = [import_module(target.partition(":")[0]) for target in PROJECT["scripts"].values()]
    found = {one.name: one for module in modules for one in vars(module).values() if isinstance(one, click.Command)}
    return {name: found[name] for name in PROJECT["scripts"]}


# --- all pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text = read(page)
    known = set().union(*map(options, commands().values()))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
    assert set(re.findall(r"\bzsl-(?!deploy)[a-z]+", text)) <= set(commands())
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"^    make ([\w-]+)|`make ([\w-]+)`", text, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    paths = re.findall(
        r"`((?:zsl_|train|export|runtime|tests|tools|benchmarks|docs|\.ci|\.pre)[\w./-]*[/.][\w./-]+)`", text
    )
    for path in paths:
        if not path.startswith("zsl_runtime."):
            assert any((ROOT / room / path).exists() for room in ("", "train", "runtime", "export")), path
    for module, name in re.findall(r"`(zsl_runtime)\.(\w+)`", text):
        assert name == "__all__" or import_module(f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    assert [line for line in read(page).splitlines() if len(line) > 120] == []


# --- CONTRIBUTING ---------------------------------------------------------------------------------------------------


def test_the_arrows_are_those_of_the_imports():
    drawn = dict(re.findall(r"`(zsl_\w+)\s+->\s+([\w, ]+)`", read("CONTRIBUTING.md")))
    found = {}
    for room, package in (("train", "zsl_train"), ("export", "zsl_export"), ("runtime", "zsl_runtime")):
        names = set()
        for source in (ROOT / room / package).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    names.add((node.module or "").partition(".")[0])
                elif isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
        found[package] = {name for name in names if name.startswith("zsl_")} - {package}
    assert found == {package: set(drawn[package].split(", ")) - {"nothing"} for package in drawn}


def test_methods_backends_and_data_sets_are_added_where_it_says():
    text = read("CONTRIBUTING.md")
    offered = set().union(*(vars(module) for module in METHODS.values()))
    for name in ("NAME", "Config", "PRESETS", "stages", "build", "fit", "HEAD", "PUBLISHED_HEAD", "FOLDS", "variants"):
        assert f"`{name}`" in text
        assert name in offered
    homes = {
        "zsl_train.methods": ("METHODS",),
        "zsl_train.methods.session": ("Session",),
        "zsl_runtime.backends.table": ("BACKENDS", "Kind"),
        "zsl_runtime.backends.onnx_graphs": ("GraphBackend",),
        "zsl_runtime.backends.ort": ("open_graphs",),
        "zsl_runtime.backends.tensorrt": ("open_on_card", "check"),
        "zsl_train.data.open": ("_open", "LAYOUTS"),
        "zsl_train.data.roles": ("check_photographs", "check_roles", "seeded_roles"),
        "zsl_train.data.archives": ("find_archive",),
        "zsl_train.data.att_splits": ("PUBLISHED",),
    }
    for module, names in homes.items():
        for name in names:
            assert name in text
            assert hasattr(import_module(module), name)
    assert re.search(r"^SMALL = ", read("tests/contracts/test_methods.py"), re.MULTILINE)
    assert re.search(r"^RUNTIME_NEEDS = ", read("tests/test_house.py"), re.MULTILINE)


def test_hooks_are_what_make_lint_runs():
    hooks = re.findall(r"^\s+entry: \.venv/bin/(.+)$", read(".pre-commit-config.yaml"), re.MULTILINE)
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
    assert hooks == [line.removeprefix("\t$(BIN)/") for line in recipe.splitlines()]
    assert "VENV ?= .venv" in MAKEFILE
    assert set(re.findall(r"repo: (.+)", read(".pre-commit-config.yaml"))) == {"local"}
    assert "make test" in read(".ci/run")
    assert re.search(r"^test:.*\blint\b", MAKEFILE, re.MULTILINE)


# --- SECURITY -------------------------------------------------------------------------------------------------------


def test_what_security_says_of_defaults_is_so():
    text = read("docs/security.md")
    given = {field.name: field.default for field in fields(Recipe)}
    assert f"{given['probe_pictures']} pictures of the run (recipe key `probe_pictures`)" in text
    assert given["replay_per_class"] == 0
    assert "features of all training pictures of the seen classes" in text
    assert f"{given['probe_pictures'] + given['parity_pictures']} pictures by default" in text
    assert f"`{trust.TRUSTED}`" in text


def test_nothing_is_unpickled_and_only_training_downloads():
    """Every reader that could run code is told not to, in all packages."""
    loads, network, pickles = [], set(), []
    for source in sorted(path for room in ("train", "export", "runtime") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("torch"), attr="load"), keywords=given):
                    loads.append(
                        ("weights_only", True) in {(one.arg, getattr(one.value, "value", None)) for one in given}
                    )
                case ast.Call(func=ast.Attribute(value=ast.Name("np"), attr="load"), keywords=given):
                    loads.append(
                        ("allow_pickle", False) in {(one.arg, getattr(one.value, "value", None)) for one in given}
                    )
                case ast.Import(names=names):
                    pickles += [one.name for one in names if one.name in {"pickle", "marshal", "shelve", "dill"}]
                    network |= {source.name for one in names if one.name.startswith(("urllib.request", "http.client"))}
                    network |= {source.name for one in names if one.name in {"socket", "requests"}}
                case ast.ImportFrom(module=str(name)):
                    pickles += [name] if name in {"pickle", "marshal", "shelve", "dill"} else []
    assert len(loads) >= 4
    assert all(loads)
    assert pickles == []
    assert network == {"resnet101.py", "listening.py"}  # the second listens, for the page of zsl-demo


# --- versioning -----------------------------------------------------------------------------------------------------


def test_the_promised_names_are_those_of_the_package():
    (names,) = re.findall(r"^`ClassTable`(?:.+\n)+", read("docs/versioning.md"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", names)) == set(zsl_runtime.__all__)
    for name in zsl_runtime.__all__:
        assert hasattr(zsl_runtime, name)


def test_formats_are_those_of_the_code():
    text = read("docs/versioning.md")
    table = re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.MULTILINE)
    assert {rule: int(number) for number, rule in table} == FORMATS
    assert f"`pixels.version` (now {pixels.PIXELS_VERSION})" in text
    assert f"(`format` {run_folder.RUN_FORMAT} in run.json)" in text


def test_all_commands_are_promised():
    for name in PROJECT["scripts"]:
        assert f"`{name}`" in read("docs/versioning.md")
