"""requirements-runtime.txt: what a runtime installs, every wheel by its hash, and nothing but that."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from support.scripts import load_tool

ROOT = Path(__file__).parents[1]
pins = load_tool("runtime_pins")
TEXT = (ROOT / "requirements-runtime.txt").read_text(encoding="utf-8")
HELD = pins.pinned(TEXT)
PLACES = list(pins.places())


def test_it_is_what_pyproject_and_the_constraints_say():
    assert len(HELD) >= 8
    assert pins.faults(TEXT) == []
    assert pins.main(["--check"]) == 0


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--chekc"], 2), (["x", "y"], 2)])
def test_words_that_it_does_not_know_write_nothing(words, code, capsys, monkeypatch):
    monkeypatch.setattr(pins, "resolved", lambda: pytest.fail("it went on"))
    assert pins.main(words) == code
    assert "--check" in capsys.readouterr().err
    assert (ROOT / "requirements-runtime.txt").read_text(encoding="utf-8") == TEXT


def test_without_uv_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(pins.importlib.util, "find_spec", lambda _name: None)
    assert pins.main([]) == 2
    assert capsys.readouterr().err == "uv is missing: pip install uv\n"


def anywhere(one: Requirement) -> bool:
    return one.marker is None or any(one.marker.evaluate(dict(place)) for place in PLACES)


def test_it_holds_all_that_is_needed_and_nothing_else():
    """As the packages that are installed here say themselves; the closure is worked out in another way than uv's."""
    needed, open_names = set(), [canonicalize_name(one.name) for one in pins.wanted()]
    while open_names:
        name = open_names.pop()
        if name in needed:
            continue
        needed.add(name)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        open_names += [canonicalize_name(one.name) for one in map(Requirement, requires) if anywhere(one)]
    assert needed == set(HELD)


def test_it_names_no_place_to_load_from():
    assert not re.search(r"://|--(?:index|extra|find|trusted)", TEXT)
    assert not re.search(r"[\w-]+\.(?:org|com|io|net)\b", TEXT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("numpy==", "numpy==1"), "numpy: 1"),
        (
            lambda text: re.sub(r"^numpy==.+?(?=^onnx)", "", text, flags=re.MULTILINE | re.DOTALL),
            "numpy>=2.0: not there",
        ),
        (lambda text: text.replace("sha256:", "md5:", 1), "cannot be read"),
        (lambda text: text + "evil==1.0\n", "cannot be read: evil==1.0"),
        (lambda text: f"{text}evil==1.0 \\\n    --hash=sha256:{'0' * 64}\n", "evil: 1.0, constraints.txt has None"),
    ],
)
def test_what_is_changed_is_found(change, said):
    changed = change(TEXT)
    assert changed != TEXT
    assert any(one.startswith(said) for one in pins.faults(changed)), pins.faults(changed)


def place(python: str, machine: str) -> dict[str, str]:
    (found,) = [one for one in PLACES if (one["python_version"], one["platform_machine"]) == (python, machine)]
    return found


@pytest.mark.parametrize(
    ("tag", "python", "machine", "fits"),
    [
        (("py3", "none", "any"), "3.14", "aarch64", True),
        (("cp311", "cp311", "manylinux_2_27_x86_64"), "3.11", "x86_64", True),
        (("cp311", "cp311", "manylinux_2_27_x86_64"), "3.12", "x86_64", False),
        (("cp311", "cp311", "manylinux_2_27_x86_64"), "3.11", "aarch64", False),
        (("cp310", "abi3", "manylinux2014_aarch64"), "3.13", "aarch64", True),
        (("cp312", "abi3", "manylinux2014_aarch64"), "3.11", "aarch64", False),
        (("cp311", "cp311", "manylinux_2_34_x86_64"), "3.11", "x86_64", False),
        (("cp311", "cp311", "musllinux_1_2_x86_64"), "3.11", "x86_64", False),
        (("cp314", "cp314t", "manylinux_2_27_x86_64"), "3.14", "x86_64", False),
        (("cp311", "cp311", "win_amd64"), "3.11", "x86_64", False),
        (("cp311", "cp311", "macosx_11_0_arm64"), "3.11", "aarch64", False),
        (("pp311", "pypy311_pp73", "manylinux_2_27_x86_64"), "3.11", "x86_64", False),
    ],
)
def test_wheels_are_kept_where_they_can_be_installed(tag, python, machine, fits):
    assert pins.runs_on(Tag(*tag), place(python, machine)) is fits


def test_a_package_that_has_no_wheel_for_one_of_the_machines_is_an_error():
    def wheel(name: str) -> dict:
        return {"url": f"somewhere/{name}.whl", "hashes": {"sha256": name[:1] * 64}}

    package = {"name": "a", "version": "1", "wheels": [wheel("a-1-cp310-abi3-manylinux_2_17_x86_64")]}
    with pytest.raises(SystemExit, match=r"a 1 has no wheel for Python 3\.11 on aarch64"):
        pins.kept_wheels(package)
    assert pins.kept_wheels({**package, "marker": "platform_machine == 'x86_64'"}) == ["a" * 64]
    assert "a==1 ; platform_machine == 'x86_64' \\\n    --hash=sha256:aaaa" in pins.page(
        [{**package, "marker": "platform_machine == 'x86_64'"}]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("python", "machine"), [("3.11", "x86_64"), ("3.14", "aarch64")])
def test_pip_installs_it_with_hashes_alone(python, machine, tmp_path):
    words = ["--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "requirements-runtime.txt")]
    words += ["--python-version", python, "--implementation", "cp", "--dest", str(tmp_path)]
    for glibc in range(17, 29):
        words += ["--platform", f"manylinux_2_{glibc}_{machine}"]
    words += ["--platform", f"manylinux2014_{machine}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if "onnection" in done.stderr:
        pytest.skip("no index of packages is reached from here")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.whl"))) == len(HELD)
    # One byte more, and pip refuses it.
    bad = tmp_path / "bad.txt"
    bad.write_text(re.sub(r"sha256:[0-9a-f]{2}", "sha256:00", TEXT), encoding="utf-8")
    words[words.index("-r") + 1] = str(bad)
    refused = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


@pytest.mark.slow
def test_uv_gives_the_same_file_again():
    pytest.importorskip("uv", reason="uv is not installed")
    assert pins.page(pins.resolved()) == TEXT
