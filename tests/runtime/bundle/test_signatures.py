"""Signatures that are demanded: what opens, and what somebody who can write to the folder cannot do."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from support.signing import (
    cert_pem,
    certificate,
    envelope,
    fixed,
    new_key,
    of_generation,
    private_pem,
    sign_by_hand,
    signature,
    statement,
    write_certified,
    write_keys,
)
from zsl_runtime import Classifier
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.signatures import (
    LARGEST_SIGNATURE,
    Keys,
    fingerprint,
    parse_signature,
    read_keys,
    statement_of,
)
from zsl_runtime.classes.changes import remove_classes, undo
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.machine.untrusted import UnfitError

KEY = new_key()  # of the tests with hypothesis, which take no fixture that is made anew for each test
KEYS = Keys(Path("keys"), {fingerprint(KEY.public_key()): KEY.public_key()})
COVERED = {"manifest.json": "1" * 64, "model.onnx": "2" * 64}
GOOD = signature(KEY, COVERED)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def maker(tmp_path):
    return write_keys(tmp_path / "keys", "maker", KEY)


@pytest.fixture(scope="module")
def signed_once(shared_bundle, tmp_path_factory):
    path = shutil.copytree(shared_bundle(rule="gaussian"), tmp_path_factory.mktemp("signed") / "bundle")
    bundle = Bundle.open(path)
    remove_classes(bundle, ["wren"])
    remove_classes(bundle, ["robin"])
    sign_by_hand(path, KEY, generations=(1, 2, 3))
    return path


@pytest.fixture
def signed(signed_once, tmp_path):
    """A bundle with three generations, all signed by the maker; the third is in force."""
    return shutil.copytree(signed_once, tmp_path / "signed")


def refused(path, keys, code="E-SIGNATURE", **more) -> str:
    with pytest.raises(ArtefactError) as caught:
        Bundle.open(path, require_signature=keys, **more)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.exit_code == 5
    return caught.value.message


def put_in_force(path, number: int) -> None:
    """Let CURRENT name another generation, as whoever can write to the folder can."""
    current = json.loads((path / "classes" / "CURRENT").read_bytes())
    digest = of_generation(path, number)[f"classes/{number:06d}.safetensors"]
    changed = {**current, "generation": number, "sha256": digest}
    (path / "classes" / "CURRENT").write_text(json.dumps(changed) + "\n")


# --- what opens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_a_bundle_that_is_signed_by_a_trusted_key_opens(own_bundle, tmp_path, curve):
    path, maker = own_bundle(), write_keys(tmp_path, "maker", new_key(curve()))
    sign_by_hand(path, maker.key)
    bundle = Bundle.open(path, require_signature=maker.public)
    assert bundle.current().number == 1
    assert bundle.keys.keys.keys() == {maker.hint}


def test_the_site_demands_it_of_everybody_by_a_variable(signed, maker, tmp_path, monkeypatch):
    other = write_keys(tmp_path, "other")
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", str(other.public))
    refused(signed, None)
    with pytest.raises(ArtefactError, match="E-SIGNATURE"):
        Classifier.open(signed, "reference")
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", str(maker.public))
    with Classifier.open(signed, "reference") as classifier:
        assert classifier.generation == 3
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", "")
    assert Bundle.open(signed).keys is None


def test_without_demand_signatures_are_not_looked_at(signed):
    (signed / "model.sig").write_bytes(b"nonsense")
    assert Bundle.open(signed).current().number == 3


def test_keys_of_a_folder_and_of_one_file_are_all_trusted(signed, maker, tmp_path):
    other = write_keys(tmp_path / "others", "other")
    Bundle.open(signed, require_signature=maker.public.parent)
    both = tmp_path / "both.pem"
    both.write_bytes(other.public.read_bytes() + maker.public.read_bytes())
    Bundle.open(signed, require_signature=both)
    assert "none of the 1 of" in refused(signed, other.public.parent)


def test_whoever_may_add_classes_may_not_replace_the_model(signed, maker, tmp_path):
    site = write_keys(tmp_path / "trusted" / "additions", "site")
    shutil.copy(maker.public, tmp_path / "trusted" / "maker.pub")
    (signed / "classes" / "000003.sig").write_bytes(signature(site.key, of_generation(signed, 3)))
    bundle = Bundle.open(signed, require_signature=tmp_path / "trusted")
    assert bundle.current().number == 3
    refused(signed, maker.public)
    (signed / "model.sig").write_bytes(signature(site.key, fixed(signed)))
    assert f"model.sig is by key {site.hint[:16]}" in refused(signed, tmp_path / "trusted")


def test_files_that_nobody_lists_change_nothing(signed, maker):
    (signed / "extra.onnx").write_bytes(b"not signed, not listed, not loaded")
    (signed / "engines").mkdir()
    (signed / "engines" / "x.engine").write_bytes(b"trusted only by the list of engines of whoever built it")
    assert Bundle.open(signed, require_signature=maker.public).current().number == 3


# --- what an attacker with the folder can do ------------------------------------------------------------------------


def test_signatures_that_are_taken_away_are_missed(signed, maker):
    (signed / "classes" / "000003.sig").unlink()
    assert "000003.sig is missing" in refused(signed, maker.public)
    (signed / "model.sig").unlink()
    assert "model.sig is missing" in refused(signed, maker.public)


def test_a_changed_model_does_not_open_whatever_its_hashes_say(signed, maker):
    """The attacker writes the sums anew, as an export would; only the signature gives it away, before JSON is read."""
    manifest = (signed / "manifest.json").read_bytes()
    (signed / "manifest.json").write_bytes(manifest.replace(b'"method"', b'"m\\u0065thod"'))
    assert "of another manifest.json" in refused(signed, maker.public)
    (signed / "manifest.json").write_bytes(b"{ no JSON")
    assert "of another manifest.json" in refused(signed, maker.public)


def test_a_changed_graph_does_not_open(signed, maker):
    graph = signed / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    refused(signed, maker.public, "E-BUNDLE-HASH")


def test_a_signature_of_less_or_more_than_the_manifest_lists_is_none(signed, maker):
    files = fixed(signed)
    for changed in (
        {name: digest for name, digest in files.items() if name != "model.onnx"},
        {**files, "more.onnx": "0" * 64},
        {**files, "model.onnx": "0" * 64},
    ):
        (signed / "model.sig").write_bytes(signature(maker.key, changed))
        assert "does not agree with manifest.json about" in refused(signed, maker.public)


def test_a_generation_that_nobody_signed_is_refused_though_its_parents_are(signed, maker):
    remove_classes(Bundle.open(signed), ["crow"])
    assert "000004.sig is missing" in refused(signed, maker.public)


def test_a_generation_that_a_stranger_signed_is_refused(signed, maker):
    stranger = new_key()
    remove_classes(Bundle.open(signed), ["crow"])
    (signed / "classes" / "000004.sig").write_bytes(signature(stranger, of_generation(signed, 4)))
    assert "none of the 1" in refused(signed, maker.public)
    (signed / "classes" / "000004.sig").write_bytes(signature(stranger, of_generation(signed, 4), hint=maker.hint))
    assert "it was changed" in refused(signed, maker.public)


def test_signatures_of_other_things_by_the_same_key_are_refused(signed, maker, own_bundle):
    """Of another generation, of the fixed part, of the same number of another model."""
    sigs = signed / "classes"
    good = (sigs / "000003.sig").read_bytes()
    other = own_bundle("other", rule="gaussian", seed=1)
    for theirs in (
        (sigs / "000002.sig").read_bytes(),
        (signed / "model.sig").read_bytes(),
        signature(maker.key, {**of_generation(signed, 3), "manifest.json": fixed(other)["manifest.json"]}),
        signature(maker.key, {"classes/000003.safetensors": of_generation(signed, 3)["classes/000003.safetensors"]}),
    ):
        (sigs / "000003.sig").write_bytes(theirs)
        assert "of another generation, or of one of another model" in refused(signed, maker.public)
    (signed / "model.sig").write_bytes(good)
    (sigs / "000003.sig").write_bytes(good)
    assert "does not agree with manifest.json" in refused(signed, maker.public)


def test_an_older_signed_state_that_is_put_back_is_noticed(signed, maker, tmp_path):
    Bundle.open(signed, require_signature=maker.public)
    put_in_force(signed, 2)
    text = refused(signed, maker.public, "E-SIGNATURE-OLD")
    assert "generation 2" in text
    assert "is older than generation 3" in text
    # Whoever put a backup there on purpose is told what to delete.
    (note,) = (tmp_path / "cache" / "signed-generations").iterdir()
    assert str(note) in text
    note.unlink()
    assert Bundle.open(signed, require_signature=maker.public).current().number == 2


def test_another_state_of_the_same_number_is_noticed(signed, maker):
    """As of a copy, to which the same people added other classes."""
    Bundle.open(signed, require_signature=maker.public)
    put_in_force(signed, 2)
    remove_classes(Bundle.open(signed), ["tit"])
    (signed / "classes" / "000003.sig").write_bytes(signature(maker.key, of_generation(signed, 3)))
    assert "is another one than generation 3" in refused(signed, maker.public, "E-SIGNATURE-OLD")


def test_going_back_by_undo_is_not_an_older_state(signed, maker):
    Bundle.open(signed, require_signature=maker.public)
    assert undo(Bundle.open(signed)).generation.number == 4
    (signed / "classes" / "000004.sig").write_bytes(signature(maker.key, of_generation(signed, 4)))
    assert Bundle.open(signed, require_signature=maker.public).current().number == 4


def test_a_copy_at_another_place_has_states_of_its_own(signed, maker, tmp_path):
    copy = shutil.copytree(signed, tmp_path / "copy")
    Bundle.open(signed, require_signature=maker.public)
    put_in_force(copy, 2)
    assert Bundle.open(copy, require_signature=maker.public).current().number == 2


def test_without_a_cache_folder_it_opens_and_says_what_is_not_noticed(signed, maker, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "file" / "no folder"))
    assert Bundle.open(signed, require_signature=maker.public).current().number == 3
    assert "that somebody puts back will not be noticed by the next program" in capsys.readouterr().err
    put_in_force(signed, 2)
    assert "somebody put an older state back; if it was you, start again" in refused(
        signed, maker.public, "E-SIGNATURE-OLD"
    )


def test_a_running_program_takes_no_unsigned_and_no_older_state(signed, maker):
    with Classifier.open(signed, "reference", require_signature=maker.public) as classifier:
        remove_classes(Bundle.open(signed), ["crow"])
        with pytest.raises(ArtefactError, match="E-SIGNATURE: "):
            classifier.reload()
        assert classifier.generation == 3
        (signed / "classes" / "000004.sig").write_bytes(signature(maker.key, of_generation(signed, 4)))
        classifier.reload()
        assert classifier.generation == 4
        put_in_force(signed, 3)
        with pytest.raises(ArtefactError, match="E-SIGNATURE-OLD"):
            classifier.reload()
        assert classifier.generation == 4


def test_going_back_to_a_state_that_nobody_signed_is_refused(signed, maker):
    (signed / "classes" / "000002.sig").unlink()
    bundle = Bundle.open(signed, require_signature=maker.public)
    with pytest.raises(ArtefactError, match=r"000002\.sig is missing"):
        bundle.generation(2, of_generation(signed, 2)["classes/000002.safetensors"])


@pytest.mark.parametrize("name", ["model.sig", "classes/000003.sig"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "giant", "deep", "empty", "list", "cut"])
def test_what_is_no_signature_s_file_is_refused_at_once(signed, maker, tmp_path, name, kind):
    path = signed / name
    good = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(good)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "giant":
        with path.open("wb") as file:
            file.write(good)
            file.truncate(LARGEST_SIGNATURE + 1)
    else:
        contents = {"deep": b"[" * 100_000, "empty": b"", "list": b"[" + good + b"]", "cut": good[:-10]}
        path.write_bytes(contents[kind])
    refused(signed, maker.public)


def test_no_key_may_lie_in_the_bundle_that_it_vouches_for(signed, maker):
    shutil.copy(maker.public, signed / "maker.pub")
    with pytest.raises(UsageError, match="whoever can change the one can change the other"):
        Bundle.open(signed, require_signature=signed / "maker.pub")


# --- what a signature says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.update(mediaType="application/json"), "is of the type"),
        (lambda one: one.pop("dsseEnvelope"), "has no dsseEnvelope"),
        (lambda one: one["dsseEnvelope"].update(payloadType="text/plain"), "covers 'text/plain'"),
        (lambda one: one["dsseEnvelope"].update(payload="%%%"), "not base64"),
        (lambda one: one["dsseEnvelope"].update(payload=7), "not base64"),
        (lambda one: one["dsseEnvelope"]["signatures"].append({"sig": ""}), "exactly one signature"),
        (lambda one: one["dsseEnvelope"].update(signatures=[]), "exactly one signature"),
        (lambda one: one["dsseEnvelope"].update(signatures=[3]), "exactly one signature"),
        (lambda one: one.update(verificationMaterial={}), "has no publicKey"),
        (lambda one: one["verificationMaterial"].update(publicKey={}), "by which key"),
        (lambda one: one["verificationMaterial"].update(publicKey={"hint": "A" * 64}), "by which key"),
        (lambda one: one["verificationMaterial"].update(x509CertificateChain={}), "1 to 8 certificates"),
        (lambda one: one["verificationMaterial"].update(x509CertificateChain={"certificates": [1]}), "not base64"),
        (
            lambda one: one["verificationMaterial"].update(x509CertificateChain={"certificates": [{}] * 9}),
            "1 to 8 certificates",
        ),
    ],
)
def test_envelopes_of_another_form_are_refused(change, said):
    document = envelope(new_key(), statement({"a": "0" * 64}))
    parse_signature(json.dumps(document).encode())
    change(document)
    with pytest.raises(UnfitError, match=said):
        parse_signature(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://model_signing/Digests/v0.1"},
        {"predicate": {}},
        {"subject": []},
        {"predicate": {"serialization": {"method": "shards", "hash_type": "sha256"}, "resources": []}},
        {"predicate": {"serialization": {"method": "files", "hash_type": "blake3"}, "resources": []}},
        {"predicate": {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": {}}},
        {"predicate": {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": [{"name": "a"}]}},
        {
            "predicate": {
                "serialization": {"method": "files", "hash_type": "sha256"},
                "resources": [{"name": "a", "algorithm": "sha256", "digest": "0" * 64}] * 2,
            }
        },
    ],
)
def test_statements_of_another_form_are_refused_though_they_are_signed(change):
    good = parse_signature(json.dumps(envelope(new_key(), statement({"a": "0" * 64}))).encode())
    assert statement_of(good) == {"a": "0" * 64}
    with pytest.raises(UnfitError):
        statement_of(good._replace(payload=statement({"a": "0" * 64}, **change)))


@given(
    st.integers(0, 10_000),
    st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"", b'"', b"{", b"\\u0000"])),
)
def test_no_change_of_a_signature_s_file_is_let_through_or_ends_in_another_error(at, put):
    """One byte or more is another; what still parses and checks must cover the same files."""
    at %= len(GOOD)
    bad = GOOD[:at] + put + GOOD[at + max(1, len(put)) :]
    try:
        one = parse_signature(bad)
        KEYS.check(one, generation=False)
        covered = statement_of(one)
    except UnfitError:
        return
    assert covered == COVERED


@given(st.binary(max_size=200))
def test_any_bytes_as_a_signature_are_refused_in_words(data):
    with pytest.raises(UnfitError):
        parse_signature(data)


# --- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    return write_certified(tmp_path)


def test_a_maker_whom_a_trusted_authority_certifies_is_trusted(own_bundle, people, tmp_path):
    keys, root, middle, own = people
    path = own_bundle()
    sign_by_hand(path, keys["maker"], chain=(own, middle))
    assert Bundle.open(path, require_signature=tmp_path / "root.crt").current().number == 1
    sign_by_hand(path, keys["maker"], chain=(own, middle, root))
    assert Bundle.open(path, require_signature=tmp_path / "root.crt").current().number == 1
    (tmp_path / "own.crt").write_bytes(cert_pem(own))
    assert Bundle.open(path, require_signature=tmp_path / "own.crt").current().number == 1
    sign_by_hand(path, keys["maker"], chain=(own,))
    assert "nobody trusted here vouches for" in refused(path, tmp_path / "root.crt")


def test_certificates_that_do_not_do_are_refused(own_bundle, people, tmp_path):
    keys, root, middle, own = people
    path, trusted, maker = own_bundle(), tmp_path / "root.crt", keys["maker"]
    other_key = new_key()
    other_root = certificate("Root", other_key, authority=True)  # the same name, another key
    by_maker = certificate("Friend", other_key, own, maker)
    cases = {
        "expired": (certificate("Maker", maker, middle, keys["middle"], days=(-9, -1)), middle),
        "not yet": (certificate("Maker", maker, middle, keys["middle"], days=(1, 9)), middle),
        "middle expired": (
            own,
            certificate("Middle", keys["middle"], root, keys["root"], authority=True, days=(-9, -1)),
        ),
        "another root": (certificate("Maker", maker, other_root, other_key), other_root),
        "self-signed": (certificate("Maker", maker),),
        "may not sign": (certificate("Maker", maker, middle, keys["middle"], may_sign=False), middle),
    }
    for case, chain in cases.items():
        sign_by_hand(path, maker, chain=chain)
        assert "nobody trusted here vouches for today" in refused(path, trusted), case
    sign_by_hand(path, other_key, chain=(by_maker, own, middle))
    assert "nobody trusted here vouches for today" in refused(path, trusted)
    sign_by_hand(path, other_key, chain=(own, middle))  # another's certificate, without their key
    assert "it was changed" in refused(path, trusted)


def test_a_certificate_is_no_key_and_a_key_no_certificate(own_bundle, people, tmp_path):
    keys, _, middle, own = people
    path, plain = own_bundle(), write_keys(tmp_path, "maker", keys["maker"])
    sign_by_hand(path, keys["maker"], chain=(own, middle))
    assert "only keys are trusted here" in refused(path, plain.public)
    sign_by_hand(path, keys["maker"])
    assert "none of the 0" in refused(path, tmp_path / "root.crt")


def test_garbage_as_a_certificate_is_refused(own_bundle, people, tmp_path):
    keys, _, middle, own = people
    path = own_bundle()
    sign_by_hand(path, keys["maker"], chain=(own, middle))
    document = json.loads((path / "model.sig").read_bytes())
    for raw in (b"", b"\x30\x82", b"x" * 1000):
        document["verificationMaterial"]["x509CertificateChain"]["certificates"][0]["rawBytes"] = base64.b64encode(
            raw
        ).decode()
        (path / "model.sig").write_text(json.dumps(document))
        assert "cannot be read" in refused(path, tmp_path / "root.crt")


# --- keys -----------------------------------------------------------------------------------------------------------


def pem(public) -> bytes:
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no PEM file"),
        (b"ssh-ed25519 AAAA me@here", "is no PEM file"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key that can be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate that can be read"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA", "no public key and no certificate"),
        (b"-----BEGIN PGP MESSAGE-----\nAAAA\n-----END PGP MESSAGE-----\n", "'PGP MESSAGE'"),
        (private_pem(new_key()), "holds a private key"),
        (pem(ed25519.Ed25519PrivateKey.generate().public_key()), "another kind .Ed25519."),
        (pem(rsa.generate_private_key(65537, 2048).public_key()), "another kind .RSA."),
        (pem(ec.generate_private_key(ec.SECP256K1()).public_key()), "another kind .secp256k1."),
        (b"-----BEGIN " + b"x" * (1 << 20), "has 1,048,587 bytes or more, where at most 1,048,576 can be"),
        (cert_pem(certificate("Old", new_key(), authority=True, days=(-9, -1))), "not today"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_in_words(signed, tmp_path, content, said):
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        Bundle.open(signed, require_signature=tmp_path / "key.pem")
    assert caught.value.code == "E-KEY"


def test_keys_that_are_not_there_are_an_error_and_not_no_demand(signed, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no public key"):
        read_keys(tmp_path / "empty")
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", str(tmp_path / "nothing"))
    with pytest.raises(Exception, match="E-SYSTEM: could not read the key") as caught:
        Bundle.open(signed)
    assert caught.value.exit_code == 2


def test_without_the_package_one_line_says_what_to_install(signed, maker, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendError, match=r"E-PACKAGE: checking signatures needs cryptography.*zsl-deploy\[verify\]"):
        Bundle.open(signed, require_signature=maker.public)
    assert Bundle.open(signed).current().number == 3
