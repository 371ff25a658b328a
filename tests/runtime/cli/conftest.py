"""What tests of the commands have in common."""

from __future__ import annotations

import pytest

from zsl_runtime.cli.infer import main


@pytest.fixture
def infer(capfdbinary):
    """Run zsl-infer in this process, without counts at the end: (exit code, stdout, stderr lines)."""

    def run(*arguments: object) -> tuple[int, bytes, list[str]]:
        code = main([*map(str, arguments), "--quiet"])
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode().splitlines()

    return run
