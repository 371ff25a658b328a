"""The store of engines: keys, files, what fits and what does not, damage, trust; TensorRT is not needed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.engines import FACTS, facts_of, real_trusted
from support.tiny_bundle import ATTRIBUTES
from support.tiny_precisions import add_precisions
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, undo
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError
from zsl_runtime.graphs.parts import PARTS
from zsl_runtime.graphs.ports import Port, Ports, ports_of
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.trt import store as engine_store
from zsl_runtime.trt.facts import Profile, build_command, engine_precisions, graph_file, key
from zsl_runtime.trt.store import engines_of, find, mark_verified, read_plan, read_sidecar, store
from zsl_runtime.trt.trust import check_trust

if TYPE_CHECKING:
    from pathlib import Path

PLAN = b"ftrt" + bytes(range(200))
PORTS = Ports((Port("images", "uint8", ("N", 8, 8, 3)),), (Port("scores", "float32", ("N", "C")),))


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return Bundle.open(own_bundle("a bundle"))


def kept(bundle: Bundle, plan: bytes = PLAN, **changes) -> Path:
    return store(bundle.path, facts_of(bundle, **changes), plan, PORTS, 12.5)


def looked_for(bundle: Bundle, **changes):
    wanted = {"flavour": "tensorrt", "version": "11.4.0.106", "compute_capability": "9.0", "precision": "fp32"}
    return find(bundle, **{**wanted, **changes})


# --- keys -----------------------------------------------------------------------------------------------------------

OTHER = {
    "graph_sha256": "1" * 64,
    "part": "lift",
    "flavour": "tensorrt-rtx",
    "version": "11.4.0.107",
    "compute_capabilities": ("8.9", "9.0"),
    "gpu": None,
    "precision": "fp16",
    "profiles": (Profile(1, 1, 8),),
    "max_classes": 100,
    "host_code": True,
    "platform": "windows-amd64",
}


def test_every_fact_makes_another_key():
    assert set(OTHER) == {one.name for one in fields(FACTS)}
    keys = {key(FACTS), *(key(replace(FACTS, **{name: value})) for name, value in OTHER.items())}
    assert len(keys) == len(OTHER) + 1
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in keys)
    assert key(FACTS) == key(replace(FACTS))


def test_facts_read_as_a_sentence():
    assert str(replace(FACTS, platform="linux-x86_64")) == (
        "model in fp32, tensorrt 11.4.0.106, compute capability 9.0 (NVIDIA H200), "
        "batches 1..8 (best 1) and 1..64 (best 64), linux-x86_64"
    )


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
    assert real_trusted(tmp_path / "cache") == [stored.sha256]
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


# --- what can be asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "precision", "code", "pattern"),
    [
        ("model", "bf16", "E-PRECISION-NAME", "which is a precision of CPUs; choose fp32, fp16, int8"),
        ("model", "fp8", "E-PRECISION-NAME", "there is no engine in 'fp8'; choose"),
        ("model", "int8", "E-PRECISION", r"holds fp32 and no int8; .*--precision fp32,int8 --out '.*a bundle' --force"),
        ("rows", "fp32", "E-ENGINE-PART", "has no graph 'rows'; it has model, synthesizer, lift"),
        ("head", "fp32", "E-ENGINE-PART", "has no graph 'head'"),
        ("lift", "fp16", "E-PRECISION", "the graph lift is in fp32 alone"),
    ],
)
def test_a_graph_that_is_not_there(bundle, part, precision, code, pattern):
    with pytest.raises(UsageError, match=pattern) as caught:
        graph_file(bundle, part, precision)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)


def test_int8_is_the_symmetric_file(bundle):
    add_precisions(bundle.path, ("fp32", "int8-cpu", "int8-trt"), default="int8")
    both = Bundle.open(bundle.path)
    assert graph_file(both, "model", "int8") == "model.int8-trt.onnx"
    assert engine_precisions(both) == ["int8", "fp32"]


@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("rule", ["fit", "rows", "gaussian"])
def test_ports_are_those_of_the_files(shared_bundle, kind, rule):
    import onnx

    bundle = Bundle.open(shared_bundle(kind=kind, rule=rule))
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}

    def ports(values):
        return {
            Port(
                value.name,
                types[value.type.tensor_type.elem_type],
                tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim),
            )
            for value in values
        }

    for part in [name for name in PARTS if bundle.graph(name) is not None]:
        graph = onnx.load(bundle.graph(part)).graph
        found = ports_of(bundle, part)
        assert (set(found.inputs), set(found.outputs)) == (ports(graph.input), ports(graph.output))


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


# --- trust ----------------------------------------------------------------------------------------------------------


def test_only_who_built_it_here_trusts_it(bundle, tmp_path, monkeypatch):
    kept(bundle)
    stored = looked_for(bundle)
    check_trust(stored, trusted=False)
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "somebody else"))
    with pytest.raises(ArtefactError, match=r"was not built by you on this machine .*--trust-engine") as caught:
        check_trust(stored, trusted=False)
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-TRUST", 5)
    check_trust(stored, trusted=True)


def test_a_plan_that_replaced_a_trusted_one_is_not_trusted(bundle, tmp_path, monkeypatch):
    kept(bundle)
    with monkeypatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(tmp_path / "attacker"))
        kept(bundle, b"evil")  # with a sidecar that fits
    assert looked_for(bundle).sha256 == hashlib.sha256(b"evil").hexdigest()
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST"):
        check_trust(looked_for(bundle), trusted=False)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files")
@pytest.mark.parametrize("where", ["trusted-engines", "."])
def test_a_list_that_others_can_write_is_no_trust(bundle, tmp_path, where):
    kept(bundle)
    record = tmp_path / "cache" / "trusted-engines"
    assert record.stat().st_mode & 0o777 == 0o600
    (tmp_path / "cache" / where).chmod(0o777)
    with pytest.raises(ArtefactError, match=r"E-ENGINE-TRUST: .* others can write the list .*chmod go-w"):
        check_trust(looked_for(bundle), trusted=False)
    (tmp_path / "cache" / where).chmod(0o700)
    check_trust(looked_for(bundle), trusted=False)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files")
def test_a_list_of_somebody_else_is_no_trust(bundle, monkeypatch):
    kept(bundle)
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(ArtefactError, match=r"E-ENGINE-TRUST: .* others can write"):
        check_trust(looked_for(bundle), trusted=False)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files")
def test_a_folder_in_which_nobody_replaces_what_is_not_theirs_will_do(bundle, tmp_path):
    kept(bundle)
    stored = looked_for(bundle)
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST"):
        check_trust(stored, trusted=False)
    (tmp_path / "cache").chmod(0o1777)
    check_trust(stored, trusted=False)


def test_an_engine_can_be_kept_without_trusting_it(bundle):
    store(bundle.path, facts_of(bundle), PLAN, PORTS, trusted=False)
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST"):
        check_trust(looked_for(bundle), trusted=False)


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
