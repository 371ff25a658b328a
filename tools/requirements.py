"""Print the requirements of zsl-deploy itself and of the extras named on the command line, for pip.

The dependencies are installed once and the wheel separately without them, so that a change of our code does not
resolve and reinstall everything.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Requirement strings of pyproject.toml: always, of the extras, and of the build."""
    data = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    project = data["project"]
    wanted = [*data["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return wanted


if __name__ == "__main__":
    # Without spaces inside an item, a shell's command substitution hands each one over whole.
    print(" ".join(item.replace(" ", "") for item in requirements(sys.argv[1].split(","))))
