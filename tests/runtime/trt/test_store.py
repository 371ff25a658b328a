"""The store of engines: files, what fits and what does not, damage; TensorRT is not needed."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.engines import FACTS, PLAN, PORTS, facts_of, kept, looked_for, real_trusted
from support.tiny_bundle import ATTRIBUTES
from support.tiny_precisions import add_precisions
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, undo
from zsl_runtime.errors import ArtefactError, SystemProblem
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.trt import store as engine_store
from zsl_runtime.trt.facts import Profile, build_command, engine_precisions, key
from zsl_runtime.trt.store import engines_of, mark_verified, read_plan, read_sidecar, store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return Bundle.open(own_bundle("a bundle"))


# --- writing and reading --------------------------------------------------------------------------------------------


def test_a_plan_is_kept_as_it_is_with_a_sidecar(bundle, tmp_path):
    path = kept(bundle)
    assert path == bundle.path / "engines" / f"{key(facts_of(bundle))}.engine"
    assert path.read_bytes() == PLAN  # for trtexec: no byte of ours
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, path.with_suffix(".json").name]
    said = json.loads(path.with_suffix(".json").read_text())
    assert said["format"] == 1
    assert said["plan"] == {"sha256": hashlib.sha256(PLAN).hexdigest(), "bytes": len(PLAN)}
    assert (said["build_seconds"], said["builder"]) == (12.5, "tensorrt 11.4.0.106")
    assert said["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["N", 8, 8, 3]}]
    assert said["verified"] == {"probe": False, "on": None}
    stored = looked_for(bundle)
    assert (stored.path, stored.facts, stored.ports) == (path, facts_of(bundle), PORTS)
    assert (stored.sha256, stored.bytes, stored.verified_on) == (said["plan"]["sha256"], len(PLAN), ())
    assert read_plan(stored) == PLAN
    assert real_trusted(tmp_path / "cache") == [f"{stored.sha256} {stored.path.stem}"]
    Bundle.open(bundle.path)  # engines are derived: the bundle is as it was


def test_the_same_facts_are_one_file(bundle, tmp_path):
    first = kept(bundle)
    assert kept(bundle, b"another build") == first
    assert read_plan(looked_for(bundle)) == b"another build"
    assert len(real_trusted(tmp_path / "cache")) == 2
    kept(bundle, b"another build")
    assert len(real_trusted(tmp_path / "cache")) == 2


def test_a_bundle_that_cannot_be_written_keeps_its_engines_in_the_user_s_cache(bundle, tmp_path, monkeypatch):
    def refuse(path, data):
        if path.is_relative_to(bundle.path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real(path, data)

    real = engine_store.write_whole
    monkeypatch.setattr(engine_store, "write_whole", refuse)
    path = kept(bundle)
    assert path.parent == tmp_path / "cache" / "engines"
    assert looked_for(bundle).path == path
    assert engines_of(bundle) == [looked_for(bundle)]


def test_a_bundle_that_cannot_be_locked_either(bundle, tmp_path, monkeypatch):
    def locked(folder):
        raise SystemProblem("E-SYSTEM", "no") from OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(engine_store, "exclusive", locked)
    assert kept(bundle).parent == tmp_path / "cache" / "engines"


def test_a_full_disk_is_told_and_leaves_nothing(bundle, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(engine_store, "write_whole", full)
    with pytest.raises(SystemProblem, match=r"could not keep the engine .*No space left"):
        kept(bundle)
    assert list((bundle.path / "engines").iterdir()) == []


def test_what_a_killed_build_left_is_removed_and_nothing_else(bundle):
    folder = bundle.path / "engines"
    folder.mkdir()
    left = folder / f".tmp-{'a' * 16}.engine-01234567"
    others = [folder / ".tmp-file-01234567", folder / "auto-0123456789abcdef.json", folder / "mine.engine"]
    for path in (left, *others):
        path.write_bytes(b"x")
    kept(bundle)
    assert not left.exists()
    assert all(path.exists() for path in others)


# --- what fits ------------------------------------------------------------------------------------------------------


def test_without_any_engine_the_command_that_builds_one_is_given(bundle):
    with pytest.raises(ArtefactError) as caught:
        looked_for(bundle)
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-MISSING", 5)
    assert f"zsl-export '{bundle.path}' --format engine --precision fp32 --trt tensorrt" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"version": "11.3.0.99"}, {}),
        ({"flavour": "tensorrt-rtx"}, {}),
        ({"compute_capabilities": ("8.9",)}, {}),
        ({"graph_sha256": "1" * 64}, {}),
        ({"platform": "windows-amd64"}, {}),
        ({"host_code": True}, {}),
        ({"max_classes": 99}, {"classes": 100}),
    ],
)
def test_an_engine_for_something_else_says_for_what(bundle, change, asked):
    kept(bundle, **change)
    with pytest.raises(ArtefactError) as caught:
        looked_for(bundle, **asked)
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-MISMATCH", 5)
    said = str(caught.value)
    assert "\n" not in said
    assert str(facts_of(bundle, **change)) in said
    assert "here is tensorrt 11.4.0.106, compute capability 9.0, " in said
    assert f"build one that fits: {build_command(bundle.path, 'fp32', flavour='tensorrt')}" in said
    assert ("from another export" in said) == ("graph_sha256" in change)
    assert ("100 classes (it takes 99)" in said) == bool(asked)


def test_for_rtx_the_command_names_the_card(bundle):
    kept(bundle, flavour="tensorrt-rtx", version="1.7.1.116", compute_capabilities=("8.6",))
    with pytest.raises(ArtefactError, match=r"--precision fp32 --trt rtx --compute-capability 8\.9$"):
        looked_for(bundle, flavour="tensorrt-rtx", version="1.7.1.116", compute_capability="8.9")


def test_another_precision_is_another_engine(bundle):
    add_precisions(bundle.path)
    both = Bundle.open(bundle.path)
    assert engine_precisions(both) == ["fp32", "fp16"]
    kept(both)
    with pytest.raises(ArtefactError, match=r"has no engine of its model in fp16 \(only in fp32\)"):
        looked_for(both, precision="fp16")


def test_the_newest_that_fits_is_taken_and_one_of_this_card_before_it(bundle):
    older = kept(bundle, gpu="NVIDIA H100")
    newer = kept(bundle, gpu="NVIDIA H200", profiles=(Profile(1, 1, 8), Profile(1, 32, 32)))
    for path, when in ((older, "2026-01-01"), (newer, "2026-02-01")):
        said = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps({**said, "built_at": when}))
    assert looked_for(bundle).path == newer
    assert looked_for(bundle, gpu="NVIDIA H100").path == older
    assert [one.path for one in engines_of(bundle)] == [newer, older]
    assert engines_of(bundle, "lift") == []


def test_one_that_this_user_built_is_taken_before_a_newer_one_of_somebody_else(bundle):
    own = kept(bundle)
    newer = facts_of(bundle, profiles=(Profile(1, 1, 8), Profile(1, 32, 32)))
    other = store(bundle.path, newer, PLAN + b"!", PORTS, trusted=False)
    for path, when in ((own, "2026-01-01"), (other, "2026-02-01")):
        said = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps({**said, "built_at": when}))
    assert looked_for(bundle).path == own
    own.unlink()
    assert looked_for(bundle).path == other


def test_engines_of_other_bundles_in_the_cache_are_not_this_one_s(bundle, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    path = store(other, facts_of(bundle, graph_sha256="1" * 64), PLAN, PORTS)
    shutil.copytree(path.parent, tmp_path / "cache" / "engines")
    with pytest.raises(ArtefactError, match="E-ENGINE-MISSING"):
        looked_for(bundle)


def test_adding_a_hundred_classes_changes_no_engine(bundle):
    path = kept(bundle)
    before, state = looked_for(bundle, classes=len(bundle.current().table)), path.stat()
    raw = np.random.default_rng(0).uniform(0, 9, (100, len(ATTRIBUTES)))
    names = tuple(f"new {i}" for i in range(100))
    add_classes(bundle, ClassTable(names, np.zeros(100, dtype=bool), raw, ATTRIBUTES))
    again = Bundle.open(bundle.path)
    after = looked_for(again, classes=len(again.current().table))
    assert len(again.current().table) == 108
    assert after == before
    assert hashlib.sha256(read_plan(after)).hexdigest() == before.sha256
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (state.st_ino, state.st_mtime_ns)
    undo(again)
    assert looked_for(again) == before


# --- damage ---------------------------------------------------------------------------------------------------------


def test_a_plan_that_was_changed_is_not_given_out(bundle):
    path = kept(bundle)
    stored = looked_for(bundle)
    path.write_bytes(PLAN[:-1] + b"?")
    with pytest.raises(ArtefactError, match=r"is not the plan that was built .*zsl-export") as caught:
        read_plan(stored)
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-HASH", 5)
    path.write_bytes(PLAN[:-1])
    with pytest.raises(ArtefactError, match=r"E-ENGINE-HASH: .*203 bytes, expected .* and 204 bytes"):
        looked_for(bundle)
    path.unlink()
    with pytest.raises(ArtefactError, match=r"E-ENGINE-MISSING: .* is gone"):
        read_plan(stored)
    with pytest.raises(ArtefactError, match="E-ENGINE-MISSING"):
        looked_for(bundle)


def test_a_rebuild_between_finding_and_reading_gives_the_new_plan(bundle):
    kept(bundle)
    stored = looked_for(bundle)
    kept(bundle, b"built again")
    assert read_plan(stored) == b"built again"


def test_a_damaged_sidecar_is_told_only_where_nothing_else_fits(bundle):
    path = kept(bundle)
    (path.parent / f"{'0' * 16}.json").write_text("{")
    assert looked_for(bundle).path == path
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"E-ENGINE-HASH: .*json is damaged"):
        looked_for(bundle)


def test_a_sidecar_of_a_newer_version(bundle):
    path = kept(bundle).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ArtefactError, match="format 2, expected 1") as caught:
        read_sidecar(path)
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-SIDECAR", 5)


def test_facts_that_are_not_those_of_the_name(bundle):
    path = kept(bundle).with_suffix(".json")
    path.write_text(path.read_text().replace("11.4.0.106", "11.4.0.107"))
    with pytest.raises(ArtefactError, match="not those of its name"):
        read_sidecar(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30)
@given(st.data())
def test_any_sidecar_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sidecar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(folder / "cache"))
        path = store(folder, FACTS, PLAN, PORTS).with_suffix(".json")
        content = json.loads(path.read_text())
        at, names = content, []
        while isinstance(at, dict) and (not names or data.draw(st.booleans())):
            names.append(data.draw(st.sampled_from(sorted(at))))
            at = at[names[-1]]
        part = content
        for name in names[:-1]:
            part = part[name]
        part[names[-1]] = data.draw(JSON)
        path.write_text(json.dumps(content))
        assert code_of(path) in {"", "E-ENGINE-SIDECAR"}
        path.write_bytes(data.draw(st.binary(max_size=30)))
        assert code_of(path) == "E-ENGINE-SIDECAR"
    shutil.rmtree(folder)


def code_of(path: Path) -> str:
    """Of the error that reading a sidecar gives; '' for none."""
    try:
        read_sidecar(path)
    except ArtefactError as error:
        return error.code
    return ""


# --- where it ran ---------------------------------------------------------------------------------------------------


def test_what_passed_the_probe_is_remembered(bundle):
    path = kept(bundle)
    mark_verified(looked_for(bundle), "NVIDIA L4")
    assert looked_for(bundle).verified_on == ("NVIDIA L4",)
    assert json.loads(path.with_suffix(".json").read_text())["verified"] == {"probe": True, "on": "NVIDIA L4"}
    mark_verified(looked_for(bundle), "NVIDIA H200")
    assert looked_for(bundle).verified_on == ("NVIDIA H200", "NVIDIA L4")
    kept(bundle, b"built again")  # and has not run
    assert looked_for(bundle).verified_on == ()


def test_it_is_remembered_by_the_user_where_the_bundle_cannot_be_written(bundle, monkeypatch):
    path = kept(bundle)
    stored = looked_for(bundle)

    def refuse(path, data):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(engine_store, "write_whole", refuse)
    mark_verified(stored, "NVIDIA L4")
    assert json.loads(path.with_suffix(".json").read_text())["verified"] == {"probe": False, "on": None}
    assert looked_for(bundle).verified_on == ("NVIDIA L4",)
