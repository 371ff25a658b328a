"""Bundles: every changed byte is found, writers are atomic, readers never see half of anything."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.forked import allow_fork, become_nobody, forked, killed_at_every_step, public_folder, told
from support.signed import change_file
from support.tiny_bundle import SEED, class_table, fit_tiny, make_tiny_bundle, tiny_replay, tiny_views
from zsl_runtime.bundle import bundle as bundle_module
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.generation import Generation, Probe
from zsl_runtime.bundle.manifest import format_for
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError, ZslError
from zsl_runtime.head.fitting import Replay
from zsl_runtime.head.head import FitSettings
from zsl_runtime.head.readout import Readout
from zsl_runtime.machine.storage import exchange, parse_tensors, tensor_bytes, write_whole

if TYPE_CHECKING:
    from pathlib import Path

assert public_folder  # a fixture

EVERY_FILE = [
    "manifest.json",
    "model.onnx",
    "synthesizer.onnx",
    "lift.onnx",
    "replay.safetensors",
    "probe.safetensors",
    "parity.json",
    "classes/000001.safetensors",
    "classes/CURRENT",
]


@pytest.fixture(scope="module")
def original(shared_bundle) -> Path:
    return shared_bundle()


@pytest.fixture
def path(own_bundle) -> Path:
    return own_bundle()


def broken(path: Path) -> ArtefactError:
    """The error with which opening ends."""
    with pytest.raises(ArtefactError) as caught:
        Bundle.open(path)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    return caught.value


def sign(path: Path) -> None:
    """Make CURRENT fit the manifest and generation 1 as they are now, as only a faulty writer would."""
    digests = [
        hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in ("classes/000001.safetensors", "manifest.json")
    ]
    pointer = {"generation": 1, "sha256": digests[0], "manifest_sha256": digests[1]}
    (path / "classes/CURRENT").write_text(json.dumps(pointer) + "\n")


def edit_manifest(path: Path, change) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    changed = change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest if changed is None else changed))
    sign(path)


def second(bundle: Bundle, *, names: int = 7) -> Generation:
    """A generation that follows the current one: the first `names` classes."""
    old = bundle.current()
    rows = np.arange(names)
    return replace(
        old,
        number=old.number + 1,
        parent=old.number,
        parent_sha256=bundle.pointer()[1],
        table=old.table.take(rows),
        head=old.head.take(rows),
        action="remove",
    )


# ---- reading ----


def test_a_whole_bundle_opens_and_gives_back_what_was_written(original):
    bundle = Bundle.open(original)
    generation = bundle.current()
    expected = class_table()
    assert (generation.number, generation.parent, generation.seed, generation.action) == (1, 0, SEED, "export")
    assert generation.table.names == expected.names
    assert generation.table.attributes == expected.attributes == bundle.attributes
    np.testing.assert_array_equal(generation.table.raw, expected.raw)
    np.testing.assert_array_equal(generation.table.seen, expected.seen)
    head = fit_tiny(expected, seed=0, lift=True)
    assert (generation.head.gamma, generation.head.temperature) == (head.gamma, head.temperature)
    assert generation.head.views == tiny_views(lift=True) == bundle.views
    np.testing.assert_array_equal(generation.head.weights[1], head.weights[1])
    np.testing.assert_array_equal(bundle.replay().features, tiny_replay(expected, 0).features)
    assert bundle.probe().top1.tolist() == list(range(8))
    assert bundle.seed == SEED
    assert [entry["action"] for entry in bundle.history()[0]] == ["export"]
    assert bundle.leftovers() == []
    assert {path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file()} == {
        *EVERY_FILE,
        "history.jsonl",
        ".lock",
    }


@pytest.mark.parametrize("inside", ["", "manifest.json", "model.onnx", "classes/CURRENT", "classes/000001.safetensors"])
def test_a_file_in_the_bundle_means_the_bundle(original, inside):
    assert Bundle.open(original / inside).path == original


def test_bundles_without_lift_or_pictures_or_of_feature_vectors(shared_bundle):
    plain = Bundle.open(shared_bundle(lift=False, probe_images=False))
    assert plain.graph("lift") is None
    assert plain.graph("model") == plain.path / "model.onnx"
    assert plain.probe().pixels is None
    vectors = Bundle.open(shared_bundle(kind="backbone_features"))
    assert vectors.probe().inputs.shape == (8, 4, 3)
    assert vectors.manifest["pixels"] is None
    with pytest.raises(ArtefactError, match="E-BUNDLE-MISSING"):
        plain.file("lift.onnx")


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
def test_one_changed_bit_in_any_file_is_found(path, name, where):
    data = bytearray((path / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (path / name).write_bytes(data)
    error = broken(path)
    assert error.code.startswith("E-BUNDLE-")
    # A changed hash in CURRENT and a changed file look the same from here.
    assert name == "classes/CURRENT" or name.split("/")[-1] in error.message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_any_change_of_the_two_files_that_hold_hashes_is_found(original, tmp_path, data):
    """The manifest and CURRENT vouch for the others and for each other: every byte of both, changed to any other."""
    path = tmp_path / "copy"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, path)
    name = data.draw(st.sampled_from(["manifest.json", "classes/CURRENT"]))
    content = bytearray((path / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = (content[place] + data.draw(st.integers(1, 255))) % 256
    (path / name).write_bytes(content)
    broken(path)


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "longer", "folder"])
def test_a_file_that_is_missing_or_of_another_length_is_found(path, name, how):
    target = path / name
    content = target.read_bytes()
    target.unlink()
    if how == "folder":
        target.mkdir()
    elif how != "missing":
        target.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "longer": content + b"\0"}[how])
    error = broken(path)
    if how in {"missing", "folder"}:
        assert error.code == ("E-BUNDLE-NOT" if name == "manifest.json" else "E-BUNDLE-MISSING")


def test_verify_false_reads_no_graph_but_still_checks_the_classes(path):
    (path / "model.onnx").write_bytes(b"other")
    assert Bundle.open(path, verify=False).current().number == 1
    (path / "classes/000001.safetensors").write_bytes(b"other")
    with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
        Bundle.open(path, verify=False)


def test_a_newer_format_is_named_with_ours(path):
    edit_manifest(path, lambda manifest: manifest.update(format_version=5))
    error = broken(path)
    assert error.code == "E-BUNDLE-VERSION"
    assert "format 5" in error.message
    assert "up to 4" in error.message


@pytest.mark.parametrize(("rule", "version"), [("fit", 1), ("rows", 2), ("gaussian", 3)])
def test_a_bundle_carries_the_oldest_format_that_describes_it(shared_bundle, rule, version):
    """So that a runtime from before a rule reads all that it can run, and names the format of the rest."""
    manifest = Bundle.open(shared_bundle(rule=rule)).manifest
    assert manifest["format_version"] == version


@pytest.mark.parametrize("lift", [True, False])
def test_a_bundle_whose_rows_come_from_attributes_keeps_neither_synthesizer_nor_replay(shared_bundle, lift):
    bundle = Bundle.open(shared_bundle(rule="rows", lift=lift))
    assert bundle.head_rule == "rows"
    assert bundle.graph("rows") == bundle.path / "rows.onnx"
    assert bundle.graph("synthesizer") is None
    assert set(bundle.manifest["files"]) == {
        *("model.onnx", "rows.onnx", "probe.safetensors", "parity.json"),
        *(["lift.onnx"] if lift else []),
    }
    with pytest.raises(ArtefactError, match="E-BUNDLE-MISSING"):
        bundle.replay()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["head"].update(rule="fit"),
        lambda m: m["head"].update(rule=["rows"]),
        lambda m: m["head"].update(synthetic_per_class=3),
        lambda m: m["head"]["views"][0].update(fit=FitSettings().to_dict()),
        lambda m: m["head"]["views"][0].update(start=1),
        lambda m: m["head"]["views"].append(dict(m["head"]["views"][0])),
        lambda m: m["graphs"].update(rows=None),
        lambda m: m["graphs"].update(rows="other.onnx"),
        lambda m: m["graphs"].update(synthesizer=None),
        lambda m: m["dims"].update(Z=4),
        lambda m: m["dims"].update(Z=None),
    ],
)
def test_a_manifest_of_computed_rows_with_wrong_content_is_refused(own_bundle, change):
    path = own_bundle(rule="rows")

    def edit(manifest):
        change(manifest)

    edit_manifest(path, edit)
    assert broken(path).code == "E-BUNDLE-MANIFEST"


def test_a_bundle_of_means_keeps_no_features_of_anybody(shared_bundle):
    bundle = Bundle.open(shared_bundle(rule="gaussian"))
    assert bundle.head_rule == "gaussian"
    assert set(bundle.manifest["files"]) == {
        *("model.onnx", "means.onnx", "lift.onnx", "gaussian.safetensors", "probe.safetensors", "parity.json"),
    }
    assert len(bundle.current().means) == 8
    with pytest.raises(ArtefactError, match="E-BUNDLE-MISSING"):
        bundle.replay()


def drop_file(manifest):
    del manifest["files"]["gaussian.safetensors"]


@pytest.mark.parametrize(
    "change",
    [
        drop_file,
        lambda m: m["head"].update(rule="rows"),
        lambda m: m["head"].update(rule="gauss"),
        lambda m: m["head"].update(synthetic_per_class=3),
        lambda m: m["head"]["views"][0].update(fit=FitSettings().to_dict()),
        lambda m: m["graphs"].update(means=None),
        lambda m: m["graphs"].update(lift=None),
        lambda m: m["graphs"].update(synthesizer=None),
        lambda m: m["dims"].update(Z=4),
        lambda m: m.update(attribute_ranges=[[0, 1]]),
        lambda m: m.update(attribute_ranges=[[0, 1]] * 5 + [[2, 1]]),
        lambda m: m.update(attribute_ranges=[[0, 1]] * 5 + [[0, float("nan")]]),
        lambda m: m.update(attribute_ranges=[[0, 1]] * 5 + [[0, "1"]]),
        lambda m: m.update(attribute_ranges=[[0, 1]] * 5 + [0]),
        lambda m: m.update(attribute_ranges={}),
    ],
)
def test_a_manifest_of_means_with_wrong_content_is_refused(own_bundle, change):
    path = own_bundle(rule="gaussian")

    def edit(manifest):
        change(manifest)

    edit_manifest(path, edit)
    assert broken(path).code == "E-BUNDLE-MANIFEST"


@pytest.mark.parametrize(
    "change",
    [
        {"readout": "replay.safetensors"},
        {"readout": None},
        {"graph": "other.onnx"},
        {"graph": "model.onnx"},
        {"graph": 7},
        {"graph": None},
        {"regions": 0},
        {"regions": 1 << 21},
        {"regions": "4"},
        {"more": 1},
        {"centres": None},
        {"centres": [3.5]},
        {"centres": [3, 32.0]},
        {"centres": [3.5, 0.0]},
        {"centres": [1e300, 32.0]},
        {"centres": [3.5, "32"]},
    ],
)
def test_a_manifest_that_explains_with_wrong_content_is_refused(own_bundle, change):
    path = own_bundle(explain=True)
    assert Bundle.open(path).regions == 4
    edit_manifest(path, lambda manifest: manifest["explain"].update(change))
    assert broken(path).code == "E-BUNDLE-MANIFEST"


def test_what_explains_is_no_list_and_its_read_out_is_a_file(own_bundle):
    for change in (
        lambda manifest: manifest.update(explain=[]),
        lambda manifest: manifest["explain"].pop("regions"),
        lambda manifest: manifest["files"].pop("readout.safetensors"),
    ):
        path = own_bundle(f"b{change.__code__.co_firstlineno}", explain=True)
        edit_manifest(path, change)
        assert broken(path).code == "E-BUNDLE-MANIFEST"


def test_a_read_out_of_another_width_is_refused_when_it_is_read(own_bundle):
    path = own_bundle(explain=True)
    other = Readout(*(np.ones(shape, np.float32) for shape in ((6, 3), 6, 6, 6, 3, 3))).to_bytes()
    change_file(path, "readout.safetensors", other)
    bundle = Bundle.open(path)
    with pytest.raises(ArtefactError, match="E-BUNDLE-READOUT"):
        bundle.readout()


def test_what_explains_is_hashed_by_itself_and_not_with_the_rest(own_bundle):
    path = own_bundle(explain=True)
    for name in ("readout.safetensors", "explain.onnx"):
        (path / name).write_bytes(b"another file")
    bundle = Bundle.open(path)
    assert bundle.explain_files == ("readout.safetensors", "explain.onnx")
    bundle.verify()
    for name in bundle.explain_files:
        with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
            bundle.verify_file(name)
    with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
        bundle.readout()


def test_what_is_not_a_bundle_is_said_to_be_none(tmp_path):
    with pytest.raises(UsageError, match="E-BUNDLE-PATH"):
        Bundle.open(tmp_path / "none")
    (tmp_path / "photo.jpg").write_bytes(b"")
    for other in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(ArtefactError, match="E-BUNDLE-NOT"):
            Bundle.open(other)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"[]", "E-BUNDLE-MANIFEST"),
        (b'"text"', "E-BUNDLE-MANIFEST"),
        (b"{", "E-BUNDLE-MANIFEST"),
        (b"\xff\xfe", "E-BUNDLE-MANIFEST"),
        (b"[" * 100_000, "E-BUNDLE-MANIFEST"),
        (b"{}", "E-BUNDLE-MANIFEST"),
        (b'{"format_version": "1"}', "E-BUNDLE-MANIFEST"),
        (b'{"format_version": true}', "E-BUNDLE-MANIFEST"),
        (b'{"format_version": 0}', "E-BUNDLE-MANIFEST"),
    ],
)
def test_a_manifest_that_is_no_manifest(path, content, code):
    (path / "manifest.json").write_bytes(content)
    sign(path)
    assert broken(path).code == code


def remove(*keys):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(manifest):
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(remove(key) for key in ("method", "pixels", "input", "graphs", "dims", "attributes", "head", "files")),
        put("method", 3),
        put("method", "tiny\nok      forged"),
        put("created", "\x1b[2J"),
        put("created", "\u202e2026"),
        put("pixels", []),
        put("graphs", "model", None),
        put("graphs", "model", "other.onnx"),
        put("graphs", "synthesizer", ["synthesizer.onnx"]),
        put("graphs", "synthesizer", None),
        put("graphs", "more", "model.onnx"),
        put("graphs", "lift", None),
        put("input", {}),
        put("input", "name", "video"),
        put("input", "name", []),
        put("input", "dtype", "float32"),
        put("input", "shape", "N"),
        put("pixels", None),
        put("dims", "F", 0),
        put("dims", "F", "12"),
        put("dims", "more", 1),
        put("dims", "A", 7),
        put("dims", "D", 25),
        put("attributes", ["a"] * 6),
        put("attributes", [1, 2, 3, 4, 5, 6]),
        put("semantic_rule", {"clamp": True}),
        put("head", "rule", None),
        put("head", "seed", -1),
        put("head", "seed", 1.5),
        put("head", "synthetic_per_class", 0),
        put("head", "views", []),
        put("head", "views", [3]),
        put("head", "views", {}),
        put("head", "views", 0, "start", -1),
        put("head", "views", 0, "fit", "epochs", 0),
        put("head", "views", 0, "fit", "epochs", 10**9),
        put("head", "synthetic_per_class", 10**9),
        put("head", "views", [{}] * 65),
        put("dims", "F", 1 << 40),
        put("dims", "Z", 1 << 40),
        put("files", {f"f{k}": {"sha256": "0" * 64, "bytes": 0} for k in range(1001)}),
        put("files", "model.onnx", "bytes", (4 << 30) + 1),
        put("files", "replay.safetensors", "bytes", (2 << 30) + 1),
        put("files", {f"f{k}": {"sha256": "0" * 64, "bytes": 4 << 30} for k in range(5)}),
        put("head", "views", 0, "fit", None),
        put("head", "rule", "rows"),
        put("dims", "Z", 0),
        remove("files", "replay.safetensors"),
        remove("files", "probe.safetensors"),
        put("files", "model.onnx", "0"),
        put("files", "model.onnx", "sha256", "x"),
        put("files", "model.onnx", "bytes", -1),
        *(put("precisions", value) for value in (None, {}, [], "fp32", {"fp32": "lift.onnx"}, {"fp16": "lift.onnx"})),
        put("precisions", {"fp32": "model.onnx", "fp8": "lift.onnx"}),
        put("precisions", {"fp32": "model.onnx", "fp16": "model.onnx"}),
        put("precisions", {"fp32": "model.onnx", "fp16": "other.onnx"}),
        put("precisions", {"fp32": "model.onnx", "fp16": ["lift.onnx"]}),
        *(put("default_precision", value) for value in ("fp16", "int8-cpu", "bf16", "", None, 3, ["fp32"])),
    ],
)
def test_a_signed_manifest_with_wrong_content_is_refused(path, change):
    edit_manifest(path, change)
    assert broken(path).code == "E-BUNDLE-MANIFEST"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"format_version": 1, "format_version": 2}', "has the key 'format_version' twice"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": 1e999}', "a number beyond"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b"[" * 100_000, "nested more than 32 deep"),
        (b'{"a": ' + b"9" * 4000 + b"}", "more than 64 bits"),
        (b" " * ((8 << 20) + 1), "has 8,388,609 bytes, where at most 8,388,608 can be"),
    ],
)
def test_json_that_python_reads_and_no_export_writes_is_refused(path, text, told):
    (path / "manifest.json").write_bytes(text)
    error = broken(path)
    assert error.code in {"E-BUNDLE-MANIFEST", "E-BUNDLE-FILE"}
    assert told in error.message
    assert len(error.message) < 1000


@pytest.mark.parametrize("number", [10**15 + 1, 10**300])
def test_a_generation_has_a_number_that_names_a_file(path, number):
    pointer = json.loads((path / "classes/CURRENT").read_bytes())
    (path / "classes/CURRENT").write_text(json.dumps(pointer | {"generation": number}) + "\n")
    assert broken(path).code == "E-BUNDLE-CURRENT"


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "x" * 256, "a/.tmp-b", "a/.lock", "a/CURRENT"])
def test_a_listed_file_has_a_name_that_can_be_shown_and_belongs_to_no_writer(path, name):
    edit_manifest(path, lambda manifest: manifest["files"].update({name: manifest["files"]["model.onnx"]}))
    error = broken(path)
    assert error.code == "E-BUNDLE-PATH"
    assert "\x1b" not in str(error)


def test_classes_that_nobody_would_read_again_are_not_written(path, monkeypatch):
    bundle = Bundle.open(path)
    following = second(bundle)
    before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file()}
    monkeypatch.setattr(bundle_module, "LARGEST_GENERATION", len(following.to_bytes()) - 1)
    said = r"E-GENERATION: the classes would take .* bytes, where at most"
    with bundle.lock(), pytest.raises(UsageError, match=said):
        bundle.commit(following, {})
    now = {one: one.read_bytes() for one in path.rglob("*") if one.is_file() and one.name != ".lock"}
    assert now == {one: data for one, data in before.items() if one.name != ".lock"}


@pytest.mark.parametrize(
    "keys",
    [
        {"default_precision": "fp32"},
        {"precisions": {"fp32": "model.onnx"}},
        {"precisions": {"fp32": "model.onnx", "int8-cpu": "lift.onnx"}, "default_precision": "int8"},
        {"precisions": {"int8-trt": "model.onnx"}, "default_precision": "int8"},
        {"precisions": {"fp16": "model.onnx"}, "default_precision": "fp16"},
    ],
)
def test_precisions_that_fit_are_taken(path, keys):
    edit_manifest(path, lambda manifest: manifest.update(keys))
    sign(path)
    assert keys.items() <= Bundle.open(path).manifest.items()


def test_a_default_precision_needs_its_file(path):
    edit_manifest(path, lambda manifest: manifest.update(precisions={"fp16": "model.onnx"}))
    assert "`default_precision` is 'fp32', expected one whose file is among fp16" in str(broken(path))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../model.onnx", "a/../../b", "a\\b", "c:x", "", ".", "classes/000002.safetensors", ".lock"]
)
def test_a_manifest_cannot_name_files_outside_the_bundle(path, name):
    edit_manifest(path, lambda manifest: manifest["files"].update({name: manifest["files"]["model.onnx"]}))
    assert broken(path).code == "E-BUNDLE-PATH"


def test_a_link_out_of_the_bundle_is_not_followed(path, tmp_path):
    (path / "model.onnx").rename(tmp_path / "model.onnx")
    (path / "model.onnx").symlink_to(tmp_path / "model.onnx")
    assert broken(path).code == "E-BUNDLE-PATH"


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b'{"generation": 1, "sha256": 3, "manifest_sha256": 4}\n',
        b'{"generation": "1", "sha256": "", "manifest_sha256": ""}\n',
        b'{"generation": 0, "sha256": "", "manifest_sha256": ""}\n',
    ],
)
def test_a_pointer_that_is_none(path, content):
    (path / "classes/CURRENT").write_bytes(content)
    assert broken(path).code in {"E-BUNDLE-CURRENT", "E-BUNDLE-HASH"}


def rewrite(change_tensors=None, **metadata_changes):
    """Generation 1's bytes with other tensors or metadata; a value of None takes the key out."""

    def change(data: bytes) -> bytes:
        tensors, metadata = parse_tensors(data, code="E", where="")
        metadata = {k: v for k, v in {**metadata, **metadata_changes}.items() if v is not None}
        return tensor_bytes({k: v for k, v in {**tensors, **(change_tensors or {})}.items() if v is not None}, metadata)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: struct.pack("<Q", 2**62) + data[8:],
        lambda data: data + b"more",
        rewrite({"seen": None}),
        rewrite({"seen": np.zeros(8, dtype=np.int64)}),
        rewrite({"seen": np.zeros(7, dtype=np.uint8)}),
        rewrite({"raw": np.zeros((8, 6), dtype=np.float32)}),
        rewrite({"raw": np.full((8, 6), np.nan)}),
        rewrite({"head.0.weight": np.zeros((8, 11), dtype=np.float32)}),
        rewrite({"head.0.weight": np.full((8, 12), np.inf, dtype=np.float32)}),
        rewrite({"head.1.bias": np.zeros((8, 1), dtype=np.float32)}),
        rewrite({"head.2.bias": np.zeros(8, dtype=np.float32)}),
        rewrite(names=None),
        rewrite(names="x"),
        rewrite(names='["a"]'),
        rewrite(names='{"a": 1}'),
        rewrite(names=json.dumps(["same"] * 8)),
        rewrite(names=json.dumps([1, 2, 3, 4, 5, 6, 7, 8])),
        rewrite(attributes='["a", "b", "c", "d", "e", "f"]'),
        rewrite(gamma="nan"),
        rewrite(gamma="much"),
        rewrite(temperature="0"),
        rewrite(number="one"),
        rewrite(number="2"),
        rewrite(parent="1"),
        rewrite(parent_sha256=None),
        rewrite(action=None),
    ],
)
def test_a_signed_generation_with_wrong_content_is_refused(path, change):
    target = path / "classes/000001.safetensors"
    target.write_bytes(change(target.read_bytes()))
    sign(path)
    assert broken(path).code == "E-BUNDLE-GENERATION"


def test_bfloat16_tensors_are_refused(path):
    """A dtype of the format that NumPy does not have."""
    header = json.dumps({"seen": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (path / "classes/000001.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    sign(path)
    assert broken(path).code == "E-BUNDLE-GENERATION"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_bytes_lead_to_anything_but_our_error(original, data):
    """Readers of safetensors content, given noise and damaged real files."""
    real = (original / data.draw(st.sampled_from(EVERY_FILE[4:8]))).read_bytes()
    at = data.draw(st.integers(0, min(len(real), 2000)))
    content = data.draw(
        st.one_of(
            st.binary(max_size=200), st.binary(min_size=1, max_size=20).map(lambda b: real[:at] + b + real[at + 9 :])
        )
    )
    for read in (
        lambda: Generation.from_bytes(content, tiny_views(lift=True), where="here"),
        lambda: Replay.from_bytes(content, where="here"),
        lambda: Probe.from_bytes(content, where="here"),
    ):
        told = ""
        try:
            read()
        except ZslError as error:
            told = str(error)
        assert "\n" not in told


def test_a_replay_or_probe_with_wrong_content_is_refused(path):
    def swap(name: str, content: bytes) -> Bundle:
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        (path / name).write_bytes(content)
        edit_manifest(path, lambda manifest: manifest["files"].update({name: entry}))
        return Bundle.open(path)

    narrow = tensor_bytes(
        {"features": np.zeros((2, 3), dtype=np.float16), "labels": np.zeros(2, dtype=np.int32)}, {"names": '["a"]'}
    )
    for content in (narrow, tensor_bytes({}, {"names": "[]"}), tensor_bytes({}, {"names": "[1]"}), b"noise"):
        with pytest.raises(ArtefactError, match="E-BUNDLE-REPLAY"):
            swap("replay.safetensors", content).replay()
    good = Bundle.open(path).probe()
    for content in (
        tensor_bytes({"features": good.features}, {}),
        good._replace(top1=good.top1[:3]).to_bytes(),
        good._replace(scores=good.scores.astype(np.float64)).to_bytes(),
        good._replace(pixels=good.pixels[..., :2]).to_bytes(),
    ):
        with pytest.raises(ArtefactError, match="E-BUNDLE-PROBE"):
            swap("probe.safetensors", content).probe()


def test_a_generation_survives_its_file(original):
    generation = Bundle.open(original).current()
    generation = replace(
        generation, number=5, parent=3, parent_sha256="ab", head=generation.head.take(np.arange(8)[::-1])
    )
    back = Generation.from_bytes(generation.to_bytes(), generation.head.views, where="here")
    assert (back.number, back.parent, back.parent_sha256, back.table.names) == (5, 3, "ab", generation.table.names)
    np.testing.assert_array_equal(back.head.weights[0], generation.head.weights[0])


def test_a_generation_that_cannot_be_is_refused(original):
    generation = Bundle.open(original).current()
    for change in ({"parent": 1}, {"parent": -1}, {"head": generation.head.take(np.arange(3))}):
        with pytest.raises(UsageError, match="E-GENERATION"):
            replace(generation, **change)
    nothing = np.zeros(0, dtype=np.int64)
    with pytest.raises(UsageError, match="E-GENERATION"):
        replace(generation, table=generation.table.take(nothing), head=generation.head.take(nothing))


@allow_fork
def test_unreadable_files_are_one_line(public_folder):
    path = make_tiny_bundle(public_folder / "tiny")
    (path / "model.onnx").chmod(0)
    outcome = forked(lambda: told(lambda: Bundle.open(path)), **become_nobody())
    assert outcome.code == 2
    assert "E-SYSTEM" in outcome.stderr
    assert "model.onnx" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    (path / "manifest.json").chmod(0)
    assert "manifest.json" in forked(lambda: told(lambda: Bundle.open(path)), **become_nobody()).stderr
    path.chmod(0)
    outcome = forked(lambda: told(lambda: Bundle.open(path / "manifest.json")), **become_nobody())
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "look for the bundle" in outcome.stderr


# ---- committing ----


def test_a_commit_is_the_new_state_for_new_and_old_readers(path):
    reader, writer = Bundle.open(path), Bundle.open(path)
    with writer.lock():
        writer.commit(second(writer), {"names": ["übersee-ente"]})
    assert reader.current().number == Bundle.open(path).current().number == 2
    assert len(reader.current().table) == 7
    entries, damaged = reader.history()
    assert damaged == []
    assert [entry["number"] for entry in entries] == [1, 2]
    assert entries[1]["names"] == ["übersee-ente"]
    assert entries[1]["sha256"] == reader.pointer()[1]
    assert time.strptime(entries[1]["when"], "%Y-%m-%dT%H:%M:%S+00:00")
    assert reader.generation_numbers() == (1, 2)
    assert reader.leftovers() == []


def test_a_generation_that_does_not_follow_is_refused(path):
    bundle = Bundle.open(path)
    with bundle.lock(), pytest.raises(UsageError, match="E-GENERATION"):
        bundle.commit(replace(second(bundle), number=3), {})


def test_a_history_line_that_was_cut_off_or_lost_harms_nothing(path):
    bundle = Bundle.open(path)
    with (path / "history.jsonl").open("ab") as file:
        file.write(b'{"number": 2, "act')
    with bundle.lock():
        bundle.commit(second(bundle), {})
    entries, damaged = bundle.history()
    assert [entry["number"] for entry in entries] == [1, 2]
    assert damaged == [2]
    (path / "history.jsonl").unlink()
    assert bundle.history() == ([], [])
    with bundle.lock():
        bundle.commit(second(bundle, names=6), {})
    assert [entry["number"] for entry in bundle.history()[0]] == [3]


@allow_fork
def test_a_commit_killed_at_any_step_leaves_the_old_or_the_new_state(original, tmp_path):
    states, path = set(), tmp_path / "tiny"

    def change():
        bundle = Bundle.open(path)
        with bundle.lock():
            bundle.commit(second(bundle), {})

    shutil.copytree(original, path)
    for _ in killed_at_every_step(change):
        bundle = Bundle.open(path)
        number = bundle.current().number
        states.add(number)
        assert [entry["number"] for entry in bundle.history()[0]] == list(range(1, number + 1))
        with bundle.lock():
            assert bundle.leftovers() == []
            bundle.commit(second(bundle, names=5), {})
        assert Bundle.open(path).current().number == number + 1
        lines = (path / "history.jsonl").read_bytes().splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(1, number + 2))
        assert not list(path.rglob(".tmp-*"))
        shutil.rmtree(path)
        shutil.copytree(original, path)
    assert states == {1, 2}


@allow_fork
def test_a_full_disk_leaves_the_old_state_and_no_litter(path):
    """A limit on file sizes fails a write with EFBIG just where a full disk fails it with ENOSPC.

    The limits fail the generation's first byte, its middle, and, everything else being written, the longer history.
    """
    bundle = Bundle.open(path)
    size = len(second(bundle).to_bytes())
    with (path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"long": "x" * size}) + "\n")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def change():
        with bundle.lock():
            bundle.commit(second(bundle), {})

    for limit in (0, 100, size):
        outcome = forked(lambda: told(change), file_limit=limit)
        assert (outcome.code, outcome.stderr.count("\n")) == (2, 1), outcome.stderr
        assert "E-SYSTEM" in outcome.stderr
        assert "bundle is unchanged" in outcome.stderr
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        path = make_tiny_bundle(disk / "tiny")
        bundle = Bundle.open(path)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(SystemProblem, match="No space left") as caught, bundle.lock():
            bundle.commit(second(bundle), {})
        assert "bundle is unchanged" in caught.value.message
        with pytest.raises(SystemProblem, match="No space left"):
            make_tiny_bundle(disk / "other")
        assert Bundle.open(path).current().number == 1
        assert sorted(p.name for p in disk.iterdir()) == ["filler", "tiny"]
        assert not list(path.rglob(".tmp-*"))
        filler.unlink()
        with bundle.lock():
            bundle.commit(second(bundle), {})
        assert Bundle.open(path).current().number == 2
    finally:
        subprocess.run(["umount", disk], check=True)


@allow_fork
def test_a_bundle_that_may_not_be_written_is_read_but_not_changed(public_folder):
    path = make_tiny_bundle(public_folder / "tiny")

    def change():
        bundle = Bundle.open(path)
        with bundle.lock():
            bundle.commit(second(bundle), {})

    for folder in (path, path / "classes"):
        folder.chmod(0o555)
    (path / ".lock").chmod(0o444)
    outcome = forked(lambda: told(change), **become_nobody())
    assert outcome.code == 2
    assert "could not lock tiny for writing" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    (path / ".lock").chmod(0o666)
    outcome = forked(lambda: told(change), **become_nobody())
    assert outcome.code == 2
    assert "the bundle is unchanged" in outcome.stderr
    (path / "classes" / ".tmp-file-01234567").mkdir()
    outcome = forked(lambda: told(change), **become_nobody())
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "remove what is no longer needed" in outcome.stderr
    assert Bundle.open(path).current().number == 1


def test_two_writers_both_land_and_the_waiting_one_says_so_once(path, monkeypatch):
    # Not capfd: its readouterr loses what another thread writes between its read and its truncate.
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    first, late = Bundle.open(path), Bundle.open(path)
    order = []

    def add(bundle: Bundle, name: str) -> None:
        with bundle.lock():
            order.append(name)
            bundle.commit(second(bundle, names=len(bundle.current().table) - 1), {"by": name})

    with first.lock():
        waiting = threading.Thread(target=add, args=(late, "late"))
        waiting.start()
        deadline = time.monotonic() + 60
        while "waiting" not in said.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert order == []
        first.commit(second(first), {"by": "first"})
    waiting.join()
    assert said.getvalue() == f"waiting for another writer of {path}\n"
    assert [entry.get("by") for entry in first.history()[0]] == [None, "first", "late"]
    assert (first.current().number, len(first.current().table)) == (3, 6)


@pytest.fixture
def threads_take_turns():
    """A thread that never waits hands over after 0.1 ms in place of 5: more happens in between, and in less time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_take_turns")
def test_readers_see_a_whole_generation_at_every_moment(path):
    """While a writer commits and prunes as fast as it can, everything that is read is one of its states."""
    writer, reader = Bundle.open(path), Bundle.open(path)
    done = threading.Event()

    exported = writer.current()

    def write() -> None:
        try:
            for number in range(2, 32):
                rows = np.arange(3 + number % 5)
                state = replace(
                    exported,
                    number=number,
                    parent=number - 1,
                    table=exported.table.take(rows),
                    head=exported.head.take(rows),
                )
                with writer.lock():
                    writer.commit(state, {})
                    writer.drop([old for old in writer.generation_numbers() if old < number])
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    numbers = []
    while not done.is_set():
        generation = reader.current()
        assert generation.number == 1 or len(generation.table) == 3 + generation.number % 5
        numbers.append(generation.number)
    thread.join()
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 3
    assert reader.current().number == 31


def test_a_reader_whose_generation_was_pruned_under_it_reads_the_next_one(path, monkeypatch):
    """The moment between reading CURRENT and reading the file it names, made to last."""
    bundle, writer = Bundle.open(path), Bundle.open(path)
    real, calls = Bundle.pointer, []

    def slow_pointer(self):
        answer = real(self)
        if self is bundle and not calls:
            calls.append(answer)
            with writer.lock():
                writer.commit(second(writer), {})
                writer.drop([1])
        return answer

    monkeypatch.setattr(Bundle, "pointer", slow_pointer)
    assert bundle.current().number == 2
    assert calls[0][0] == 1


def test_a_reader_gives_up_on_a_bundle_that_never_stands_still(path, monkeypatch):
    numbers = iter(range(2, 100))
    monkeypatch.setattr(Bundle, "pointer", lambda self: (next(numbers), "0"))
    with pytest.raises(ArtefactError, match="changed 5 times"):
        Bundle.open(path)


@pytest.mark.parametrize(("step", "expected"), [(0, 1), (1, 1), (2, 2)])
def test_an_interrupt_right_after_any_rename_leaves_a_usable_bundle(path, monkeypatch, step, expected):
    """Ctrl-C comes between two lines: the file has its new name, but the code does not know yet."""
    bundle, calls = Bundle.open(path), []
    real = os.replace

    def interrupted(source, target):
        real(source, target)
        calls.append(target)
        if len(calls) == step + 1:
            raise KeyboardInterrupt

    with bundle.lock():
        generation = second(bundle)
        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bundle.commit(generation, {})
        monkeypatch.undo()
    again = Bundle.open(path)
    assert again.current().number == expected
    assert again.generation_numbers() == tuple(range(1, expected + 1))
    lines = (path / "history.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(1, expected + 1))
    assert not list(path.rglob(".tmp-*"))


def test_an_error_after_the_commit_does_not_claim_that_nothing_was_done(path, monkeypatch):
    bundle = Bundle.open(path)
    real, calls = bundle_module.sync_folder, []

    def failing(folder):
        calls.append(folder)
        if len(calls) == 3:
            raise OSError(5, "Input/output error", str(folder))
        real(folder)

    monkeypatch.setattr(bundle_module, "sync_folder", failing)
    with bundle.lock(), pytest.raises(SystemProblem, match=r"\(made\)"):
        bundle.commit(second(bundle), {})
    assert Bundle.open(path).current().number == 2


def test_a_bundle_that_is_replaced_while_open_says_so(path):
    bundle = Bundle.open(path)
    make_tiny_bundle(path, seed=1, force=True)
    with pytest.raises(ArtefactError, match="E-BUNDLE-CHANGED"):
        bundle.current()
    assert Bundle.open(path).current().number == 1


def test_a_writer_who_waited_for_a_bundle_that_was_replaced_locks_the_new_one(path):
    """The lock of a folder that has gone protects nothing."""
    bundle = Bundle.open(path)
    got = []

    def wait() -> None:
        with Bundle.open(path).lock():
            got.append((path / ".lock").stat().st_ino)

    with bundle.lock():
        old = (path / ".lock").stat().st_ino
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        shutil.move(path, path.with_name("aside"))
        shutil.copytree(path.with_name("aside"), path)
    thread.join()
    assert got == [(path / ".lock").stat().st_ino]
    assert got != [old]


def test_what_a_killed_writer_left_in_the_bundle_is_seen_and_removed_by_the_next(path):
    bundle = Bundle.open(path)
    left = [path / ".tmp-file-01234567", path / "classes" / ".tmp-file-89abcdef", path / "classes/000002.safetensors"]
    for file in left:
        file.write_bytes(b"half")
    assert bundle.leftovers() == sorted(left)
    with bundle.lock():
        assert bundle.leftovers() == []
        bundle.commit(second(bundle), {})
    assert Bundle.open(path).current().number == 2


def test_whole_files_replace_whole_files(tmp_path):
    target = tmp_path / "a"
    write_whole(target, b"one")
    write_whole(target, b"two")
    assert target.read_bytes() == b"two"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "folder", b"three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "folder"]


def test_two_folders_swap_names_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


def test_a_system_that_cannot_swap_names_is_told_from_one_that_fails(tmp_path, monkeypatch):
    class Library:
        def renameat2(self, *_args):
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_kwargs: Library())
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)
    assert not exchange(tmp_path, tmp_path)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EACCES)
    with pytest.raises(PermissionError):
        exchange(tmp_path, tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_kwargs: object())
    assert not exchange(tmp_path, tmp_path)


# --- verifying several files at a time ------------------------------------------------------------------------------


def test_of_several_damaged_files_the_first_of_the_manifest_is_told(own_bundle):
    bundle = Bundle.open(own_bundle())
    names = list(bundle.manifest["files"])
    before = threading.active_count()
    for name in names[1:]:
        (bundle.path / name).write_bytes(b"changed")
    for threads in (1, 4, None):
        with pytest.raises(ArtefactError, match=re.escape(names[1])) as caught:
            bundle.verify(threads)
        assert caught.value.code == "E-BUNDLE-HASH"
    assert threading.active_count() == before


def test_what_fails_while_files_are_verified_comes_first(own_bundle):
    bundle = Bundle.open(own_bundle())
    (bundle.path / "model.onnx").write_bytes(b"changed")
    with pytest.raises(KeyError), bundle.verifying():
        raise KeyError


def scaled_manifest(manifest: dict, count: int = 6) -> None:
    manifest["semantic_rule"]["attribute_scale"] = {"low": [0.0] * count, "width": [9.0] * count}


@pytest.mark.parametrize("rule", ["fit", "rows", "gaussian"])
def test_scaled_attributes_are_a_format_of_their_own_whatever_the_head(own_bundle, rule):
    """A runtime that does not know of them would make other vectors, so it must refuse the bundle by its version."""
    path = own_bundle(rule=rule)
    edit_manifest(path, lambda manifest: scaled_manifest(manifest) or manifest.update(format_version=4))
    bundle = Bundle.open(path)
    assert format_for(bundle.manifest) == 4
    raw = bundle.current().table.raw
    plain = np.maximum(raw, 0) / 9
    np.testing.assert_allclose(bundle.rule.apply(raw), plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)


def test_a_scale_for_another_number_of_attributes_is_refused(path):
    edit_manifest(path, lambda manifest: scaled_manifest(manifest, 5))
    error = broken(path)
    assert error.code == "E-BUNDLE-MANIFEST"
    assert "`semantic_rule` scales 5 attributes, there are 6" in error.message
