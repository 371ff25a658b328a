"""Who built an engine, and where it passed the probe: lists that only the user can write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest

from support.engines import PLAN, PORTS, facts_of, kept, looked_for
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError
from zsl_runtime.trt.store import read_plan, store
from zsl_runtime.trt.trust import check_trust


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return Bundle.open(own_bundle("a bundle"))


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


# --- swapped plans: everything else fits, hashes included ------------------------------------------------------------


@pytest.fixture
def others(own_bundle) -> Bundle:
    """Another bundle of this user, of another model with the same sizes."""
    return Bundle.open(own_bundle("another bundle", seed=1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_own_plan_under_the_description_of_another_is_not_trusted(bundle, others, precision):
    """A plan that this user built of another bundle, or in another precision, described as that of this one."""
    kept(bundle)
    own = looked_for(bundle)
    source = others if precision == "fp32" else bundle
    strange = kept(
        source, PLAN + b"of another", precision=precision, **({"graph_sha256": "1" * 64} if source is bundle else {})
    )
    said = json.loads(own.sidecar.read_text())
    said["plan"] = json.loads(strange.with_suffix(".json").read_text())["plan"]
    own.sidecar.write_text(json.dumps(said))
    own.path.write_bytes(strange.read_bytes())
    assert looked_for(bundle).sha256 == hashlib.sha256(PLAN + b"of another").hexdigest()
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST"):
        check_trust(looked_for(bundle), trusted=False)


def test_a_plan_of_another_bundle_as_it_is_does_not_fit(bundle, others):
    kept(others)
    shutil.copytree(others.path / "engines", bundle.path / "engines", dirs_exist_ok=True)
    with pytest.raises(ArtefactError, match=r"E-ENGINE-MISMATCH: .*from another export of the model"):
        looked_for(bundle)


def test_another_plan_without_its_description_is_not_read(bundle, others):
    path = kept(bundle)
    path.write_bytes(kept(others, PLAN[:-1] + b"?").read_bytes())
    with pytest.raises(ArtefactError, match="E-ENGINE-HASH"):
        read_plan(looked_for(bundle), trusted=True)


def test_a_graph_in_place_of_a_plan_is_not_read(bundle):
    kept(bundle, (bundle.path / "model.onnx").read_bytes())
    with pytest.raises(ArtefactError, match=r"E-ENGINE-HASH: .* is an ONNX graph and no plan"):
        read_plan(looked_for(bundle), trusted=True)


def test_a_plan_that_is_exchanged_after_it_was_trusted_is_not_read(bundle, tmp_path, monkeypatch):
    kept(bundle)
    stored = looked_for(bundle)
    check_trust(stored, trusted=False)
    with monkeypatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(tmp_path / "attacker"))
        kept(bundle, b"evil")
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST"):
        read_plan(stored, trusted=False)
    assert read_plan(stored, trusted=True) == b"evil"  # the user said so
    kept(bundle, b"built again")  # by this user, meanwhile
    assert read_plan(stored, trusted=False) == b"built again"


def test_plans_that_were_noted_before_names_were_are_still_trusted(bundle, tmp_path):
    path = kept(bundle)
    record = tmp_path / "cache" / "trusted-engines"
    record.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    check_trust(looked_for(bundle), trusted=False)
