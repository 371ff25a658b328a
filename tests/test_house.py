"""Rules of the house that no linter knows: which way imports point, what the README promises, what a wheel holds."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.version import Version

from support.command_lines import commands, flags, parse
from zsl_train.methods import METHODS

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = {"zsl_runtime": ROOT / "runtime", "zsl_train": ROOT / "train", "zsl_export": ROOT / "export"}
MAY_IMPORT = {
    "zsl_runtime": {"zsl_runtime"},
    "zsl_train": {"zsl_runtime", "zsl_train"},
    "zsl_export": {"zsl_runtime", "zsl_train", "zsl_export"},
}
# onnxruntime, openvino and cuda (cuda.bindings) by the backends that need them; where their extras are installed,
# simplejpeg, scipy and h5py for .mat files, openpyxl for .xlsx files, cryptography and model_signing for signatures,
# starlette and uvicorn for the page of zsl-demo
RUNTIME_NEEDS = {
    "numpy",
    "PIL",
    "click",
    "safetensors",
    "onnxruntime",
    "openvino",
    "simplejpeg",
    "cuda",
    "scipy",
    "h5py",
    "openpyxl",
    "cryptography",
    "model_signing",
    "fsspec",
    "ray",
    "pyarrow",
    "starlette",
    "uvicorn",
}


def sources(package: str) -> list[Path]:
    return sorted((PACKAGES[package] / package).rglob("*.py"))


def imported(source: Path) -> set[str]:
    """Whole names of everything a file imports, inside functions and for type checking included.

    `from a.b import c` gives a.b.c where that is a file of ours, else a.b.
    """
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (below & files().keys()) or {node.module}
    return names


@functools.cache
def files() -> dict[str, Path]:
    """The files of all packages, by the name that each is imported by."""
    found = {}
    for package, folder in PACKAGES.items():
        for source in sources(package):
            parts = source.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = source
    return found


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Of each file, the files of ours that it imports."""
    return {name: (imported(source) & files().keys()) - {name} for name, source in files().items()}


def room(name: str) -> str:
    """The room of a file: the folder or file right below its package; of a package itself, `__init__`."""
    return [*name.split("."), "__init__"][1]


# --- which way imports point --------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    assert sources(package)
    for source in sources(package):
        ours = {name.partition(".")[0] for name in imported(source) if name.startswith("zsl_")}
        assert ours <= MAY_IMPORT[package], source


def test_the_runtime_imports_nothing_but_what_it_installs():
    """No torch above all; what is imported by name at run time goes through `zsl_runtime.backends.opening`."""
    for source in sources("zsl_runtime"):
        named = {name.partition(".")[0] for name in imported(source)}
        foreign = named - sys.stdlib_module_names - RUNTIME_NEEDS - {"zsl_runtime"}
        assert not foreign, source


def test_no_files_import_each_other_in_a_circle():
    """Inside functions and for type checking included, where no linter looks."""
    assert sum(map(len, arrows().values())) > 500
    tuple(graphlib.TopologicalSorter(arrows()).static_order())  # CycleError names the circle


def drawn_rooms(package: str) -> dict[str, set[str]]:
    """Room -> rooms that it imports, in the order of the drawing of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(rf"^    {package}\n((?:      .*\n)+)", text, re.MULTILINE)
    assert block, package
    lines = re.sub(r"\n {20,}", " ", block[1]).splitlines()
    drawn = {name: set(rooms.split()) for name, _, rooms in (line.strip().partition("->") for line in lines)}
    return {name.strip(): rooms for name, rooms in drawn.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_what_the_drawing_says_and_only_rooms_above_them(package):
    drawn = drawn_rooms(package)
    found: dict[str, set[str]] = {}
    for name, targets in arrows().items():
        if name.startswith(package):
            inside = {room(target) for target in targets if target.startswith(package)}
            found.setdefault(room(name), set()).update(inside - {room(name)})
    assert found == drawn
    above: set[str] = set()
    for name, rooms in drawn.items():
        assert rooms <= above, f"{name} may import only rooms above it"
        above.add(name)


def test_the_walks_pass_places_that_are_there():
    """Whatever ARCHITECTURE.md names with its file is defined in that file."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w.]+)`\s+\(`([\w/]+\.py)`", text)
    assert len(named) >= 12
    for name, file in named:
        defined = {
            node.name
            for node in ast.walk(ast.parse((ROOT / "runtime" / "zsl_runtime" / file).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        assert set(name.split(".")) <= defined, (name, file)


def test_after_export_all_methods_are_the_same_kind_of_thing():
    names = {*METHODS, "sc-egg", "scen", "eggn", "sp-aen", "dcr-gan", "lisgan", "acmr", "tf-vaegan", "eszsl", "dazle"}
    pattern = re.compile("|".join(rf"\b{name.replace('-', '[-_ ]?')}\b" for name in sorted(names)), re.IGNORECASE)
    files = [path for path in (ROOT / "runtime").rglob("*") if path.suffix in {".py", ".pyi", ".cpp", ".h", ".cu"}]
    assert len(files) > 20
    found = {path.name: pattern.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: hits for name, hits in found.items() if hits} == {}


# --- what is written about the commands ---------------------------------------------------------------------------


def test_the_two_commands_are_in_the_readme_and_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^    make {target}\b", README, re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_what_the_readme_shows_of_the_demo_are_lines_that_it_prints():
    said = re.findall(r"^    ==> (.*?): ", README, re.MULTILINE)
    assert len(said) >= 5
    demo = (ROOT / "tools" / "demo.py").read_text(encoding="utf-8")
    assert [line for line in said if line not in demo] == []


def test_every_command_line_of_the_readme_can_be_typed():
    lines = re.findall(r"^(?: {4})?(zsl-.*)$", README, re.MULTILINE)
    assert {line.split()[0] for line in lines} >= {"zsl-train", "zsl-export", "zsl-infer", "zsl-classes"}
    for line in lines:
        words = shlex.split(line, comments=True)
        parse(words)
        recipe = words[words.index("--recipe") + 1] if "--recipe" in words else "train/recipes"
        assert (ROOT / recipe).exists(), line


def test_every_flag_and_command_that_the_readme_mentions_exists():
    known = set().union(*map(flags, commands().values()))
    spans = re.findall(r"`([^`\n]+)`", README)
    mentioned = {word for span in spans if span.startswith(("--", "zsl-")) for word in span.split()}
    assert {word for word in mentioned if word.startswith("--")} <= known
    assert {word for word in mentioned if word.startswith("zsl-") and word.partition("[")[0] != PROJECT["name"]} <= set(
        commands()
    )


def test_what_the_readme_points_to_is_there():
    paths = re.findall(r"`([\w./-]+/)`", README) + re.findall(r"\b[A-Z]+\.md\b", README)
    assert len(paths) >= 5
    for path in paths:
        assert (ROOT / path).exists(), path


def test_install_lines_name_extras_that_exist():
    """Those of the runtime come from its table of extras (tests/runtime/test_extras.py)."""
    texts = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))]
    texts += [source.read_text(encoding="utf-8") for package in PACKAGES for source in sources(package)]
    named = {extra for text in texts for extra in re.findall(r"zsl-deploy\[(\w+)\]", text)}
    assert named
    assert named <= set(PROJECT["optional-dependencies"])


def releases() -> list[str]:
    """Those of the changelog, as it has them."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    return headings[headings[0] == "Unreleased" :]


def test_the_changelog_has_the_newest_release_first():
    assert releases() == sorted(set(releases()), key=Version, reverse=True)


def test_a_build_without_git_has_the_version_of_a_checkout_which_no_release_is_ahead_of():
    package = (PACKAGES["zsl_runtime"] / "zsl_runtime" / "__init__.py").read_text(encoding="utf-8")
    (unbuilt,) = re.findall(r'^_UNBUILT = "(.+?)"', package, re.MULTILINE)
    assert SETTINGS["tool"]["setuptools_scm"]["fallback_version"] == unbuilt
    assert Version(unbuilt).is_devrelease
    assert Version(Version(unbuilt).base_version) >= Version(releases()[0])


# --- what is stored and what is shipped ---------------------------------------------------------------------------


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_every_tag_of_a_release_is_in_the_changelog():
    assert tracked_files()
    tags = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {tag.removeprefix("v") for tag in tags.split()} <= set(releases())


def test_no_file_names_a_folder_of_somebody_s_machine():
    folder = re.compile(rb"(?<![\w.$}~])(?:/(?:home|Users|root|work|workspace|mnt|scratch)/|[A-Z]:\\Users\\)[\w.-]+")
    own = Path(__file__).resolve()
    found = {path.name: folder.findall(path.read_bytes()) for path in tracked_files() if path.resolve() != own}
    assert found
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_the_wheel_says_what_is_compiled_into_it():
    """PEP 770: a list of parts in .dist-info/sboms/, of the version that is installed."""
    try:
        own = distribution(PROJECT["name"])
    except PackageNotFoundError:
        pytest.skip("zsl-deploy is not installed, it is imported from the checkout")
    (listed,) = [file for file in own.files or [] if file.match("*.dist-info/sboms/*.cdx.json")]
    said = json.loads(listed.read_text(encoding="utf-8"))
    assert said["metadata"]["component"]["version"] == own.version
    assert {part["name"] for part in said["components"]} == {"nanobind", "robin-map"}
    assert all(part["licenses"] for part in said["components"])


def test_the_wheel_holds_the_packages_and_nothing_else():
    try:
        files = distribution(PROJECT["name"]).files or []
    except PackageNotFoundError:
        pytest.skip("zsl-deploy is not installed, it is imported from the checkout")
    held = {
        Path(str(file)) for file in files if not str(file).startswith((".", "zsl_deploy-")) and ".pyc" not in str(file)
    }
    wanted = {source.relative_to(PACKAGES[package]) for package in PACKAGES for source in sources(package)}
    wanted |= {Path("zsl_runtime", name) for name in ("py.typed", "_native.pyi", "_version.py", "glossary.md")}
    page = ROOT / "runtime" / "zsl_runtime" / "web" / "page"
    wanted |= {file.relative_to(PACKAGES["zsl_runtime"]) for file in page.iterdir()}
    (native,) = {path for path in held if path.stem.startswith("_native.") or path.suffix in {".so", ".pyd"}}
    assert held == {*wanted, native}
    assert native.parent == Path("zsl_runtime")
