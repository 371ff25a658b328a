"""Bundles and generations that are signed as they are made, and by whoever vouches for them later."""

from __future__ import annotations

import json
import shutil

import pytest

from support.forked import allow_fork, killed_at_every_step
from support.signing import (
    cert_pem,
    certificate,
    fixed,
    new_key,
    of_generation,
    sign_by_hand,
    signature,
    write_certified,
    write_keys,
)
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.signatures import parse_signature, read_keys, statement_of
from zsl_runtime.bundle.signing import open_signer
from zsl_runtime.bundle.vouching import open_to_vouch, sign_bundle
from zsl_runtime.bundle.writing import write_bundle
from zsl_runtime.classes.changes import prune, refit, remove_classes, undo
from zsl_runtime.errors import ArtefactError, BackendError, UsageError

pytestmark = pytest.mark.usefixtures("signing")


@pytest.fixture
def signer(maker):
    return open_signer(maker.private)


@pytest.fixture
def signed(own_bundle, signer):
    path = own_bundle(rule="gaussian")
    assert sign_bundle(open_to_vouch(path, signer, fixed=True), signer) == (1,)
    return path


def covered(path) -> dict[str, str]:
    return statement_of(parse_signature(path.read_bytes()))


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is signed -------------------------------------------------------------------------------------------------


def test_the_fixed_part_and_the_generation_are_signed_each_for_itself(signed, maker):
    assert covered(signed / "model.sig") == fixed(signed)
    assert covered(signed / "classes" / "000001.sig") == of_generation(signed, 1)
    assert Bundle.open(signed, require_signature=maker.public).current().number == 1


def test_an_export_is_signed_before_it_has_its_name(signed, signer, maker, tmp_path):
    bundle = Bundle.open(signed)
    manifest = {key: value for key, value in bundle.manifest.items() if key not in {"format_version", "files"}}
    files = {name: signed / name for name in bundle.manifest["files"]}
    made = write_bundle(tmp_path / "new", manifest=manifest, files=files, generation=bundle.current(), signer=signer)
    assert covered(made / "model.sig") == fixed(made)
    assert Bundle.open(made, require_signature=maker.public).current().number == 1
    assert not [path for path in made.rglob("*") if ".tmp-" in path.name]


def test_every_change_is_signed_and_leaves_the_first_signature_as_it_is(signed, signer, maker):
    before = (signed / "model.sig").read_bytes()
    bundle = Bundle.open(signed, signer=signer)
    for number, change in enumerate((lambda: remove_classes(bundle, ["wren"]), lambda: undo(bundle)), start=2):
        assert change().generation.number == number
        assert covered(signed / "classes" / f"{number:06d}.sig") == of_generation(signed, number)
    assert refit(bundle).generation.number == 4
    assert Bundle.open(signed, require_signature=maker.public).current().number == 4
    assert (signed / "model.sig").read_bytes() == before


def test_whoever_makes_a_state_remembers_it(signed, signer, maker):
    """Nobody has opened the bundle since, when an older state is put back."""
    before = (signed / "classes" / "CURRENT").read_bytes()
    remove_classes(Bundle.open(signed, signer=signer), ["wren"])
    (signed / "classes" / "CURRENT").write_bytes(before)
    with pytest.raises(ArtefactError, match="E-SIGNATURE-OLD"):
        Bundle.open(signed, require_signature=maker.public)


def test_signatures_go_with_their_generations(signed, signer):
    bundle = Bundle.open(signed, signer=signer)
    remove_classes(bundle, ["wren"])
    remove_classes(bundle, ["tit"])
    assert prune(bundle, 1) == (2,)
    assert sorted(path.name for path in (signed / "classes").glob("*.sig")) == ["000001.sig", "000003.sig"]


@allow_fork
def test_whoever_is_killed_leaves_a_bundle_that_is_signed(signed, signer, maker):
    """At every operation on the disk; the next writer removes what is left."""

    def change() -> None:
        bundle = Bundle.open(signed, signer=signer)
        remove_classes(bundle, bundle.current().table.names[:1])

    for _ in killed_at_every_step(change):
        assert Bundle.open(signed, require_signature=maker.public).current().number < 5
    with Bundle.open(signed).lock():
        pass
    kept = {path.stem for path in (signed / "classes").glob("*.safetensors")}
    assert {path.stem for path in (signed / "classes").glob("*.sig")} == kept
    assert not list(signed.rglob(".tmp-*"))


@allow_fork
def test_whoever_is_killed_while_signing_again_leaves_good_signatures(signed, signer, maker):
    for _ in killed_at_every_step(lambda: sign_bundle(open_to_vouch(signed, signer, fixed=True), signer) and None):
        assert Bundle.open(signed, require_signature=maker.public).current().number == 1
    assert not [path for path in signed.rglob("*") if ".tmp-" in path.name]


def test_a_signature_that_an_older_writer_orphaned_is_removed_by_the_next(signed, signer):
    (signed / "classes" / "000002.sig").write_bytes(b"of a generation that never came to be")
    (signed / "classes" / "000009.sig").write_bytes(b"of one that an older zsl-deploy pruned")
    (signed / "classes" / "mine.sig").write_bytes(b"of nobody's business")
    remove_classes(Bundle.open(signed), ["wren"])
    assert sorted(path.name for path in (signed / "classes").glob("*.sig")) == ["000001.sig", "mine.sig"]


# --- who may sign on top of what ------------------------------------------------------------------------------------


def test_nobody_signs_on_top_of_what_is_not_signed(signed, signer, maker):
    """Else whoever writes an unsigned generation would have it signed by the next addition."""
    remove_classes(Bundle.open(signed), ["wren"])
    before = contents(signed)
    for keys in (None, maker.public):
        with pytest.raises(ArtefactError, match=r"E-SIGNATURE: .*000002\.sig is missing"):
            Bundle.open(signed, signer=signer, require_signature=keys)
    assert contents(signed) == before


def test_nor_on_top_of_a_model_that_is_not(own_bundle, signer):
    with pytest.raises(ArtefactError, match=r"E-SIGNATURE: .*model\.sig is missing"):
        Bundle.open(own_bundle(), signer=signer)


def test_nobody_goes_back_to_what_is_not_signed(signed, signer):
    remove_classes(Bundle.open(signed, signer=signer), ["wren"])
    (signed / "classes" / "000001.sig").unlink()
    with pytest.raises(ArtefactError, match=r"E-SIGNATURE: .*000001\.sig is missing"):
        undo(Bundle.open(signed, signer=signer))
    assert Bundle.open(signed).current().number == 2


def test_on_top_of_somebody_else_s_signature_only_where_they_are_trusted(signed, maker, tmp_path):
    site = write_keys(tmp_path / "trusted" / "additions", "site")
    with pytest.raises(ArtefactError, match="give their public key with --require-signature"):
        Bundle.open(signed, signer=open_signer(site.private))
    shutil.copy(maker.public, tmp_path / "trusted")
    site.private.rename(tmp_path / "site.key")
    bundle = Bundle.open(signed, signer=open_signer(tmp_path / "site.key"), require_signature=tmp_path / "trusted")
    assert remove_classes(bundle, ["wren"]).generation.number == 2
    assert Bundle.open(signed, require_signature=tmp_path / "trusted").current().number == 2


def test_where_signatures_are_demanded_nothing_is_made_without(signed, signer, maker, tmp_path):
    before = contents(signed)
    with pytest.raises(UsageError, match=r"E-SIGN: .*give --sign KEY"):
        remove_classes(Bundle.open(signed, require_signature=maker.public), ["wren"])
    stranger = write_keys(tmp_path, "stranger")
    with pytest.raises(UsageError, match=r"E-SIGN: .*is none of those whose signatures are demanded"):
        Bundle.open(signed, require_signature=maker.public, signer=open_signer(stranger.private))
    assert contents(signed) == before


# --- vouching for what is there -------------------------------------------------------------------------------------


def test_a_bundle_is_signed_with_all_that_undo_goes_back_to(own_bundle, signer, maker):
    path = own_bundle(rule="rows")
    for name in ("wren", "tit", "crow"):
        remove_classes(Bundle.open(path), [name])
    prune(Bundle.open(path), 2)
    assert sign_bundle(open_to_vouch(path, signer, fixed=True), signer) == (1, 3, 4)
    bundle = Bundle.open(path, signer=signer, require_signature=maker.public)
    assert undo(bundle).generation.number == 5


def test_a_new_key_takes_the_place_of_the_old_one(signed, maker, tmp_path):
    new = write_keys(tmp_path, "new")
    fresh = open_signer(new.private)
    sign_bundle(open_to_vouch(signed, fresh, fixed=True), fresh)
    assert Bundle.open(signed, require_signature=new.public).current().number == 1
    with pytest.raises(ArtefactError, match="E-SIGNATURE"):
        Bundle.open(signed, require_signature=maker.public)


def test_generations_alone_are_vouched_for_where_the_model_is_trusted(signed, maker, tmp_path, monkeypatch):
    remove_classes(Bundle.open(signed), ["wren"])
    site = write_keys(tmp_path / "trusted" / "additions", "site")
    shutil.copy(maker.public, tmp_path / "trusted")
    site.private.rename(tmp_path / "site.key")
    own = open_signer(tmp_path / "site.key")
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", str(tmp_path / "trusted"))
    with pytest.raises(UsageError, match="E-SIGN"):
        open_to_vouch(signed, own, fixed=True)
    before = (signed / "model.sig").read_bytes()
    first = (signed / "classes" / "000001.sig").read_bytes()
    assert sign_bundle(open_to_vouch(signed, own, fixed=False), own, fixed=False) == (2,)
    assert Bundle.open(signed).current().number == 2
    assert sign_bundle(open_to_vouch(signed, own, fixed=False), own, fixed=False) == ()
    assert (signed / "classes" / "000001.sig").read_bytes() == first
    assert (signed / "model.sig").read_bytes() == before
    (signed / "model.sig").write_bytes(signature(new_key(), fixed(signed)))
    with pytest.raises(ArtefactError, match="E-SIGNATURE"):
        open_to_vouch(signed, own, fixed=False)


@pytest.mark.parametrize("name", ["model.onnx", "explain.onnx", "readout.safetensors"])
def test_what_is_damaged_is_not_vouched_for(own_bundle, signer, name):
    path = own_bundle(explain=True)
    (path / name).write_bytes(b"another file")
    with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
        open_to_vouch(path, signer, fixed=True)
    assert not (path / "model.sig").exists()


def test_what_changes_while_it_is_signed_is_not_signed(own_bundle, signer):
    path = own_bundle()
    bundle = open_to_vouch(path, signer, fixed=True)
    (path / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(ArtefactError, match=r"E-SIGN-CHANGED: model\.onnx of"):
        sign_bundle(bundle, signer)
    assert not list(path.rglob("*.sig"))
    assert not list(path.rglob(".tmp-*"))


def test_signing_by_hand_and_by_the_stand_in_are_the_same(signed, own_bundle, maker):
    """As far as the signature itself goes, which ECDSA draws anew each time."""
    other = own_bundle("by hand", rule="gaussian")
    sign_by_hand(other, maker.key)
    assert covered(other / "model.sig") == covered(signed / "model.sig")


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_certificate_and_what_leads_to_an_authority(own_bundle, tmp_path):
    write_certified(tmp_path)
    chain = tmp_path / "chain.crt"
    chain.write_bytes(b"Bag Attributes: of openssl\n" + chain.read_bytes())
    path, signer = own_bundle(), open_signer(tmp_path / "key.pem", tmp_path / "chain.crt")
    sign_bundle(open_to_vouch(path, signer, fixed=True), signer)
    bundle = Bundle.open(path, require_signature=tmp_path / "root.crt", signer=signer)
    assert remove_classes(bundle, ["wren"]).generation.number == 2
    assert Bundle.open(path, require_signature=tmp_path / "root.crt").current().number == 2
    material = json.loads((path / "model.sig").read_bytes())["verificationMaterial"]
    assert len(material["x509CertificateChain"]["certificates"]) == 2


def test_certificates_that_would_be_refused_are_refused_before_anything_is_signed(tmp_path, maker):
    other = new_key()
    for content, said in (
        (cert_pem(certificate("Other", other)), "is not that of the key"),
        (cert_pem(certificate("Maker", maker.key, days=(-9, -1))), "would refuse it"),
        (cert_pem(certificate("Maker", maker.key, may_sign=False)), "would refuse it"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate that can be read"),
        (b"-----BEGIN ", "is not that of the key"),
        (b"", "no PEM file"),
    ):
        (tmp_path / "own.crt").write_bytes(content)
        with pytest.raises(UsageError, match=said) as caught:
            open_signer(maker.private, tmp_path / "own.crt")
        assert caught.value.code == "E-KEY"


def test_an_encrypted_key_takes_its_password_from_the_environment(tmp_path, monkeypatch, own_bundle):
    hidden = write_keys(tmp_path, "hidden", password=b"long word")
    with pytest.raises(UsageError, match="is encrypted; set ZSL_SIGN_PASSWORD"):
        open_signer(hidden.private)
    monkeypatch.setenv("ZSL_SIGN_PASSWORD", "another word")
    with pytest.raises(UsageError, match="ZSL_SIGN_PASSWORD is not its password"):
        open_signer(hidden.private)
    monkeypatch.setenv("ZSL_SIGN_PASSWORD", "long word")
    signer = open_signer(hidden.private)
    path = own_bundle()
    sign_bundle(open_to_vouch(path, signer, fixed=True), signer)
    assert Bundle.open(path, require_signature=hidden.public).current().number == 1
    assert "long word" not in repr(signer)
    (tmp_path / "own.crt").write_bytes(cert_pem(certificate("Maker", hidden.key)))
    with pytest.raises(UsageError, match="does not go together with a certificate"):
        open_signer(hidden.private, tmp_path / "own.crt")
    # A key without a password does not mind one that is set for another.
    assert read_keys(hidden.public).keys.keys() == {signer.hint}
    open_signer(write_keys(tmp_path, "open").private)


def test_public_keys_and_other_files_do_not_sign(tmp_path, maker):
    (tmp_path / "text").write_text("no key")
    for path, said in ((maker.public, "no private key that can be read"), (tmp_path / "text", "no PEM file")):
        with pytest.raises(UsageError, match=said):
            open_signer(path)
    with pytest.raises(Exception, match="E-SYSTEM"):
        open_signer(tmp_path / "nothing")


def test_a_private_key_that_others_can_read_is_told(maker, capsys):
    maker.private.chmod(0o644)
    open_signer(maker.private)
    assert f"others can read the private key {maker.private}" in capsys.readouterr().err


def test_without_the_library_one_line_says_what_to_install(maker, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "model_signing" else object())
    with pytest.raises(BackendError, match=r"E-PACKAGE: signing needs model-signing.*zsl-deploy\[sign\]"):
        open_signer(maker.private)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "OpenSSL" else object())
    with pytest.raises(BackendError, match=r"E-PACKAGE: signing needs pyopenssl.*zsl-deploy\[sign\]"):
        open_signer(maker.private)
