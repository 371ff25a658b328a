"""What only a card can answer, each section of `gpu.py` by name: measured where there is one, and named where not.

`make bench-gpu` gives the whole report in one file; this is for `make bench`, which does what the machine can.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from zsl_runtime.machine.cards import driver

HERE = Path(__file__).parent
SECTIONS = ("rtx", "backbones", "latency", "end_to_end", "reload", "pixels")


@pytest.mark.gpu
@pytest.mark.parametrize("section", SECTIONS)
def bench_card(benchmark, section, tmp_path):
    found = driver()
    if not found.cards:
        pytest.skip(found.problem)
    spec = importlib.util.spec_from_file_location("zsl_bench_gpu", HERE / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    report = tmp_path / "gpu.json"
    words = ["--sections", section, "--out", str(report)]
    code = benchmark.pedantic(lambda: module.main(words), rounds=1)
    said = json.loads(report.read_text())["sections"][section]
    if "skipped" in said:
        pytest.skip(said["skipped"])
    assert code == 0
    benchmark.extra_info["report"] = said
