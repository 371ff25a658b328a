"""Write requirements-runtime.txt: what a runtime on Linux installs, every wheel by its sha256.

    python tools/runtime_pins.py            writes it (needs uv, and an index of packages)
    python tools/runtime_pins.py --check    exits with 1 where pyproject.toml or constraints.txt say something else

uv resolves the package's own requirements and those of EXTRAS to the versions of constraints.txt. Kept are the wheels
of the Pythons and machines below and no source archives, whose building would run code. Where they come from is not
said: that is the business of whoever installs.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from packaging.tags import Tag

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "requirements-runtime.txt"
EXTRAS = ("cpu", "verify")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 28)  # of manylinux: the wheels of a release are made for it
HEADER = """\
# What a runtime on Linux (x86_64 and aarch64, Python 3.11 to 3.14) installs with zsl-deploy[cpu,verify]: every wheel by
# its sha256. Written by tools/runtime_pins.py from pyproject.toml and constraints.txt.
#
#     pip install --require-hashes --only-binary :all: -r requirements-runtime.txt
#     pip install --no-deps zsl_deploy-VERSION-....whl
"""
LINE = re.compile(
    r"^([a-z0-9-]+)==([^ ;]+)(?: ; (.+?))? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
HASH = re.compile(r"sha256:([0-9a-f]{64})")


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for: always, and with EXTRAS."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [Requirement(one) for one in (*project["dependencies"], *(one for name in EXTRAS for one in extras[name]))]


def constraints() -> dict[str, Version]:
    """Name -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version.partition(";")[0].strip()) for name, version in pairs}


def places() -> Iterator[dict[str, str]]:
    """What markers are answered by, on each Python and machine."""
    for python in PYTHONS:
        for machine in MACHINES:
            yield {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "platform_machine": machine,
                "sys_platform": "linux",
                "platform_system": "Linux",
                "os_name": "posix",
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
                "extra": "",
            }


def holds(marker: str | None, place: dict[str, str]) -> bool:
    """Whether a package is wanted there."""
    return marker is None or Marker(marker).evaluate(dict(place))


def runs_on(tag: Tag, place: dict[str, str]) -> bool:
    """Whether a wheel of this tag can be installed there."""
    minor = int(place["python_version"].partition(".")[2])
    own = f"cp3{minor}"
    found = re.fullmatch(r"cp3(\d+)", tag.interpreter)
    stable = tag.abi == "abi3" and found is not None and int(found[1]) <= minor
    if not ((tag.interpreter, tag.abi) == (own, own) or stable or (tag.interpreter, tag.abi) == ("py3", "none")):
        return False
    if tag.platform == "any":
        return True
    linux = re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", tag.platform)
    if linux is not None:
        return (int(linux[1]), int(linux[2])) <= GLIBC and linux[3] == place["platform_machine"]
    old = re.fullmatch(r"manylinux(?:1|2010|2014)_(\w+)", tag.platform)
    return old is not None and old[1] == place["platform_machine"]


def kept_wheels(package: dict[str, Any]) -> list[str]:
    """The sha256 of the wheels of one package that fit anywhere here, for a pylock.toml's table of it.

    Raises:
        SystemExit: on one of the machines there is none.

    """
    marker = package.get("marker")
    tags = [
        (wheel["hashes"]["sha256"], parse_wheel_filename(wheel.get("name") or wheel["url"].rpartition("/")[2])[3])
        for wheel in package.get("wheels", ())
    ]
    fitting: set[str] = set()
    for place in places():
        if holds(marker, place):
            here = {sha256 for sha256, of in tags if any(runs_on(tag, place) for tag in of)}
            if not here:
                where = f"Python {place['python_version']} on {place['platform_machine']}"
                raise SystemExit(f"{package['name']} {package['version']} has no wheel for {where}")
            fitting |= here
    return sorted(fitting)


def resolved() -> list[dict[str, Any]]:
    """The packages as uv resolves them, tables of a pylock.toml."""
    with tempfile.TemporaryDirectory() as folder:
        wishes, lock = Path(folder, "wishes.txt"), Path(folder, "pylock.toml")
        wishes.write_text("".join(f"{one}\n" for one in wanted()), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--no-config"]
        command += ["--python-version", PYTHONS[0], "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*command, "--format", "pylock.toml", "--output-file", str(lock), str(wishes)], check=True)
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    return [package for package in packages if any(holds(package.get("marker"), place) for place in places())]


def page(packages: Iterable[dict[str, Any]]) -> str:
    """The file."""
    text = HEADER
    for package in sorted(packages, key=lambda one: one["name"]):
        everywhere = all(holds(package.get("marker"), place) for place in places())
        marker = "" if everywhere else f" ; {package['marker']}"
        hashes = [f"    --hash=sha256:{sha256}" for sha256 in kept_wheels(package)]
        text += f"{canonicalize_name(package['name'])}=={package['version']}{marker} \\\n" + " \\\n".join(hashes) + "\n"
    return text


def pinned(text: str) -> dict[str, tuple[Version, str | None, tuple[str, ...]]]:
    """Name -> version, marker and hashes of such a file."""
    return {
        name: (Version(version), marker, tuple(HASH.findall(rest)))
        for name, version, marker, rest in LINE.findall(text)
    }


def faults(text: str) -> list[str]:
    """What in the file does not follow from pyproject.toml and constraints.txt, as far as shows without an index."""
    held, known = pinned(text), constraints()
    left = LINE.sub("", text.removeprefix(HEADER))
    found = [f"cannot be read: {line}" for line in left.splitlines()]
    for name, (version, _, hashes) in held.items():
        if known.get(name) != version:
            found.append(f"{name}: {version}, constraints.txt has {known.get(name)}")
        if len(set(hashes)) < len(hashes):
            found.append(f"{name}: a hash twice")
    for one in wanted():
        version, _, _ = held.get(canonicalize_name(one.name), (None, None, ()))
        if version is None or version not in one.specifier:
            found.append(f"{one}: {version or 'not there'}")
    return found


def main(words: list[str]) -> int:
    """Write or check the file; returns the exit code."""
    if words == ["--check"]:
        wrong = faults(PAGE.read_text(encoding="utf-8"))
        print("\n".join(wrong) or f"{PAGE.name} follows from pyproject.toml and constraints.txt")
        return int(bool(wrong))
    if words:
        print(__doc__, file=sys.stderr)
        return 0 if words in (["-h"], ["--help"]) else 2
    if importlib.util.find_spec("uv") is None:
        print("uv is missing: pip install uv", file=sys.stderr)
        return 2
    PAGE.write_text(page(resolved()), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
