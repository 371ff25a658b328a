"""What a runtime consists of, as `make sbom` writes it: valid by CycloneDX's schema, whole, and the same each time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.scripts import load_tool

pytestmark = pytest.mark.slow
pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
pytest.importorskip("jsonschema", reason="the extra json-validation of cyclonedx-python-lib is not installed")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    return load_tool("sbom")


@pytest.fixture(scope="module")
def written(tool, tmp_path_factory) -> str:
    target = tmp_path_factory.mktemp("sbom") / "build" / "sbom.cdx.json"
    assert tool.main([str(target)]) == 0
    return target.read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--output"], 2), (["a", "b"], 2)])
def test_words_that_it_does_not_know_write_nothing(tool, words, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main(words) == code
    assert list(tmp_path.iterdir()) == []


def test_it_is_valid_by_the_schema_and_a_damaged_one_is_not(tool, written):
    validator = tool.JsonStrictValidator(tool.SchemaVersion.V1_6)
    assert validator.validate_str(written) is None
    broken = json.loads(written)
    broken["components"][0]["type"] = "nonsense"
    assert validator.validate_str(json.dumps(broken)) is not None


def test_the_list_in_the_wheel_is_valid_too(tool):
    template = (ROOT / "runtime" / "native" / "sbom.cdx.json.in").read_text(encoding="utf-8")
    filled = re.sub(r"@(\w+)@", "1.2.3", template)
    assert '"purl": "pkg:pypi/zsl-deploy@1.2.3"' in filled
    assert tool.JsonStrictValidator(tool.SchemaVersion.V1_6).validate_str(filled) is None


def test_it_names_every_package_that_is_pinned_and_the_parts_inside(written):
    bom = json.loads(written)
    pinned = (ROOT / "requirements-runtime.txt").read_text(encoding="utf-8")
    listed = {f"{one['name']}=={one['version']}" for one in bom["components"]}
    assert listed == {line.split()[0] for line in pinned.splitlines() if "==" in line and not line.startswith("#")}
    inside = {one["name"]: {part["name"] for part in one.get("components", ())} for one in bom["components"]}
    assert {"libjpeg-turbo", "zlib-ng", "libwebp"} <= inside["pillow"]
    assert inside["numpy"] == {"openblas"}
    assert inside["cryptography"] == {"openssl"}
    own = bom["metadata"]["component"]
    assert own["name"] == "zsl-deploy"
    assert [part["name"] for part in own["components"]] == ["nanobind"]
    assert all(one["licenses"] for one in (own, *own["components"], *bom["components"]))


def test_it_says_who_needs_whom(written):
    needs = {one["ref"]: set(one.get("dependsOn", ())) for one in json.loads(written)["dependencies"]}
    names = {ref.partition("@")[0]: {other.partition("@")[0] for other in found} for ref, found in needs.items()}
    assert names["pkg:pypi/zsl-deploy"] == {
        f"pkg:pypi/{name}" for name in ("numpy", "pillow", "click", "safetensors", "onnxruntime", "cryptography")
    }
    assert "pkg:pypi/cffi" in names["pkg:pypi/cryptography"]
    assert "pkg:pypi/numpy" in names["pkg:pypi/onnxruntime"]


def test_the_same_environment_gives_the_same_bytes(tool, written, monkeypatch):
    assert tool.text_of(tool.make()) == written
    assert "serialNumber" not in written
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert '"timestamp": "2023-11-14T22:13:20+00:00"' in tool.text_of(tool.make())
