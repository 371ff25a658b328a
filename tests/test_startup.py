"""What starting a command costs is what it imports; this is checked, the time is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
HEAVY = {
    "numpy",
    "PIL",
    "onnxruntime",
    "openvino",
    "torch",
    "onnx",
    "safetensors",
    "scipy",
    "sklearn",
    "rich",
    "openpyxl",
    "starlette",
    "uvicorn",
}


def imported(program: str) -> set[str]:
    """Top-level names of the modules that a program has imported at its end."""
    listing = "\nimport sys\nprint('MODULES', *{name.partition('.')[0] for name in sys.modules})\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program + listing], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_version_import_nothing_heavy(name, option):
    module = COMMANDS[name].partition(":")[0]
    found = imported(f"from {module} import main\nassert main([{option!r}]) == 0")
    assert "click" in found
    assert not found & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_completion_imports_nothing_heavy(name):
    """A shell runs the command at every TAB."""
    module, variable = COMMANDS[name].partition(":")[0], f"_{name.upper().replace('-', '_')}_COMPLETE"
    asked = {variable: "bash_complete", "COMP_WORDS": f"{name} --", "COMP_CWORD": "1"}
    found = imported(f"import os\nos.environ |= {asked}\nfrom {module} import main\nassert main([]) == 0")
    assert not found & HEAVY


def test_the_package_itself_imports_nothing_heavy():
    assert not imported("import zsl_runtime") & HEAVY


def test_the_reader_of_pictures_needs_no_backend():
    """The graph's library is imported by the backend that is opened, so reading can begin before."""
    found = imported(
        "from zsl_runtime.labelling import classifier, results, scoring\nfrom zsl_runtime.inputs import files"
    )
    assert "numpy" in found
    assert not found & {"tarfile", "zipfile"}  # before there is a shard
    assert not found & {"onnxruntime", "openvino", "torch", "onnx", "scipy"}
