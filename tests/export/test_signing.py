"""`zsl-export --sign`: a bundle is signed as it is written, or as it is."""

from __future__ import annotations

import pytest

from support.signing import write_keys
from support.tiny_run import know_tiny, save_tiny_run
from zsl_export.cli import main
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import remove_classes

pytestmark = pytest.mark.usefixtures("signing")


def test_a_run_becomes_a_signed_bundle(exported, traced_before, tmp_path, maker, monkeypatch, capfd):
    know_tiny(monkeypatch)
    run, out = save_tiny_run(exported.run, tmp_path / "run"), tmp_path / "birds"
    assert main([str(run), "--out", str(out), "--sign", str(maker.private)]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{out}\n"
    assert f"signed by key {maker.hint[:16]}: what the export fixed" in printed.err
    assert Bundle.open(out, require_signature=maker.public).current().number == 1


def test_a_key_that_cannot_sign_is_refused_before_the_export_begins(exported, tmp_path, maker, monkeypatch, capfd):
    know_tiny(monkeypatch)
    run = save_tiny_run(exported.run, tmp_path / "run")
    assert main([str(run), "--out", str(tmp_path / "birds"), "--sign", str(maker.public)]) == 2
    assert capfd.readouterr().err.startswith("error: E-KEY: ")
    assert not (tmp_path / "birds").exists()


def test_a_bundle_that_is_there_is_signed_as_it_is(own_bundle, maker, capfd):
    path = own_bundle()
    remove_classes(Bundle.open(path), ["wren"])
    assert main([str(path), "--sign", str(maker.private)]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{path}\n"
    assert "and generation 1, 2 of its classes" in printed.err
    assert Bundle.open(path, require_signature=maker.public).current().number == 2


def test_signing_checks_the_signatures_that_are_there_where_that_is_asked_for(own_bundle, maker, tmp_path, capfd):
    path, other = own_bundle(), write_keys(tmp_path, "other")
    both = tmp_path / "both.pem"
    both.write_bytes(maker.public.read_bytes() + other.public.read_bytes())
    words = ["--sign", str(other.private), "--require-signature", str(both)]
    assert main([str(path), *words]) == 5
    assert "model.sig is missing" in capfd.readouterr().err
    assert main([str(path), "--sign", str(maker.private)]) == 0
    assert main([str(path), *words]) == 0
    assert Bundle.open(path, require_signature=other.public).current().number == 1


def test_what_does_not_go_together_with_signing_is_said(own_bundle, maker, tmp_path, capfd):
    path, sign = own_bundle(), ["--sign", str(maker.private)]
    for words, said in (
        (["--verify", *sign], "--sign: --verify makes nothing"),
        (["--format", "engine", *sign], "--sign: only for the export of a run"),
        (["--format", "triton", "--out", str(tmp_path / "repository"), *sign], "--sign: not for --format triton"),
        (["--force", *sign], "--force: only for the export of a run"),
        (["--sign-certificate", str(maker.public)], "--sign-certificate: is of a private key"),
    ):
        assert main([str(path), *words]) == 2
        assert said in capfd.readouterr().err
    assert not list(path.rglob("*.sig"))


def test_a_copy_for_a_server_is_signed_as_the_bundle_is(own_bundle, maker, tmp_path, capfd):
    path, repository = own_bundle(), tmp_path / "repository"
    assert main([str(path), "--sign", str(maker.private)]) == 0
    assert main([str(path), "--format", "triton", "--out", str(repository), "--copy-bundle"]) == 0, capfd.readouterr()
    (copy,) = [found.parent for found in repository.rglob("manifest.json")]
    assert Bundle.open(copy, require_signature=maker.public).current().number == 1


def test_engines_and_comparisons_want_a_signed_bundle_where_that_is_demanded(own_bundle, maker, tmp_path, capfd):
    path, demand = own_bundle(), ["--require-signature", str(maker.public)]
    for words in (["--verify"], ["--format", "engine"], ["--format", "triton", "--out", str(tmp_path / "repository")]):
        assert main([str(path), *words, *demand]) == 5
        assert "E-SIGNATURE" in capfd.readouterr().err
    assert not (tmp_path / "repository").exists()
