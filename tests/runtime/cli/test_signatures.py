"""`--require-signature` and `--sign` of the commands, as a user types them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from support.signing import cert_pem, certificate, sign_by_hand, write_keys
from support.tiny_bundle import class_table, draw_pictures
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import remove_classes, undo
from zsl_runtime.cli import classes, doctor, evaluate, infer
from zsl_runtime.cli.command import REQUIRE

NEW = """\
größe,name,bright left,bright top,red,green,blue
1,heron,7,1,0,7,1
"""
VARIABLE = "ZSL_REQUIRE_SIGNATURE"


pytestmark = pytest.mark.usefixtures("signing")


@pytest.fixture
def signed(own_bundle, maker):
    path = own_bundle("birds", rule="gaussian")
    sign_by_hand(path, maker.key)
    return path


@pytest.fixture
def photos(tmp_path):
    """`photos/robin/0.png`, of the right class."""
    folder = tmp_path / "photos"
    (folder / "robin").mkdir(parents=True)
    Image.fromarray(draw_pictures(class_table(), np.array([0]), seed=3)[0]).save(folder / "robin" / "0.png")
    return folder


@pytest.fixture
def table(tmp_path):
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    return tmp_path / "new.csv"


def run(capsys, main, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def every_reading_command(path, photos):
    """Those that open a bundle and change nothing."""
    yield infer.main, (photos, "--engine", path, "--backend", "reference")
    yield evaluate.main, (path, photos, "--backend", "reference")
    yield classes.main, ("list", "--engine", path)
    yield classes.main, ("template", "--engine", path)
    yield doctor.main, (path,)


def every_changing_command(path, table, photos):
    yield ("add", "--engine", path, "--attributes", table)
    yield ("teach", "--engine", path, "--photos", photos, "--backend", "reference")
    yield ("remove", "--engine", path, "robin")
    yield ("refit", "--engine", path)
    yield ("undo", "--engine", path)


# --- demanding ------------------------------------------------------------------------------------------------------


def test_every_command_obeys_the_option_and_the_site(signed, maker, photos, table, tmp_path, monkeypatch, capsys):
    other = write_keys(tmp_path / "others", "other").public
    similar = classes.main, ("similar", "--engine", signed, "--attributes", table)
    for main, words in (*every_reading_command(signed, photos), similar):
        assert run(capsys, main, *words, "--require-signature", maker.public)[0] == 0, words
        assert VARIABLE not in os.environ
        for by_option in (True, False):
            if by_option:
                code, out, err = run(capsys, main, *words, "--require-signature", other)
            else:
                with monkeypatch.context() as patch:
                    patch.setenv(VARIABLE, str(other))
                    code, out, err = run(capsys, main, *words)
            assert code == 5, words
            assert "E-SIGNATURE: signatures by" in (out if main is doctor.main else err), words
            assert "robin" not in out


def test_a_command_line_that_is_only_read_demands_nothing(signed, maker):
    with infer.command.make_context("zsl-infer", ["x", "--engine", "y", "--require-signature", str(maker.public)]):
        assert VARIABLE not in os.environ
    assert REQUIRE == VARIABLE


def test_the_option_takes_the_place_of_what_the_site_demands(signed, maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, str(write_keys(tmp_path / "others", "other").public))
    assert run(capsys, classes.main, "list", "--engine", signed)[0] == 5
    assert run(capsys, classes.main, "list", "--engine", signed, "--require-signature", maker.public)[0] == 0
    assert run(capsys, classes.main, "list", "--engine", signed)[0] == 5


def test_keys_that_are_none_are_a_wrong_argument(signed, tmp_path, capsys):
    for keys, said in (("", "E-KEY"), (tmp_path / "nothing", "E-SYSTEM"), (signed, "E-KEY"), (tmp_path, "E-KEY")):
        code, out, err = run(capsys, classes.main, "list", "--engine", signed, "--require-signature", keys)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {said}: ")
        assert err.count("\n") == 1


def test_a_damaged_signature_ends_the_doctor_s_look_at_the_bundle(signed, maker, capsys):
    (signed / "model.sig").write_bytes(b"{}")
    code, out, _ = run(capsys, doctor.main, signed, "--require-signature", maker.public)
    assert code == 5
    said = out.partition("E-SIGNATURE: ")[2].splitlines()
    assert "model.sig is of the type None" in said[0]
    assert not [line for line in said[1:] if "cards, CUDA and TensorRT are left out" not in line]


# --- what the doctor tells ------------------------------------------------------------------------------------------


def signatures(out: str) -> str:
    (line,) = [line for line in out.splitlines() if "signed" in line]
    return line


def test_the_doctor_tells_by_whom_and_whether_that_was_checked(signed, maker, own_bundle, tmp_path, capsys):
    code, out, _ = run(capsys, doctor.main, own_bundle("plain"))
    assert code == 0
    assert signatures(out) == "ok      not signed: hashes find damage, and do not tell who made it (docs/security.md)"
    _, out, _ = run(capsys, doctor.main, signed, "--require-signature", maker.public)
    who = f"key {maker.hint[:16]}"
    assert signatures(out) == (
        f"ok      what the export fixed is signed by {who}, generation 1 is signed by {who}; checked against "
        f"{maker.public}"
    )
    _, out, _ = run(capsys, doctor.main, signed)
    assert signatures(out).startswith(f"note    what the export fixed is signed by {who}, generation 1 is signed by")
    assert "not checked: give the public key with --require-signature" in signatures(out)
    (signed / "classes" / "000001.sig").unlink()
    _, out, _ = run(capsys, doctor.main, signed)
    assert "generation 1 is not signed; not checked" in signatures(out)
    (signed / "model.sig").write_bytes(b"[")
    _, out, _ = run(capsys, doctor.main, signed)
    assert "what the export fixed has no good signature: model.sig is no JSON" in signatures(out)


def test_an_older_state_that_nobody_signed_is_told_and_breaks_nothing(signed, maker, capsys):
    remove_classes(Bundle.open(signed), ["wren"])
    undo(Bundle.open(signed))
    sign_by_hand(signed, maker.key, generations=(1, 3))
    code, out, _ = run(capsys, doctor.main, signed, "--require-signature", maker.public)
    assert code == 0
    assert [line[:20] for line in out.splitlines() if "000002.sig is missing" in line] == ["note    E-SIGNATURE:"]


def test_the_doctor_names_a_certificate(own_bundle, maker, tmp_path, capsys):
    own = certificate("Bird \x1b[31mWorks", maker.key)
    path = own_bundle()
    sign_by_hand(path, maker.key, chain=(own,))
    (tmp_path / "own.crt").write_bytes(cert_pem(own))
    _, out, _ = run(capsys, doctor.main, path, "--require-signature", tmp_path / "own.crt")
    assert "Works'" in signatures(out)
    assert "\x1b" not in out


# --- signing --------------------------------------------------------------------------------------------------------


def test_every_change_can_be_signed(signed, maker, photos, table, capsys):
    for number, words in enumerate(every_changing_command(signed, table, photos), start=2):
        code, _, err = run(capsys, classes.main, *words, "--sign", maker.private)
        assert code == 0, err
        assert "note: this bundle is signed" not in err
        assert Bundle.open(signed, require_signature=maker.public).current().number == number


def test_where_signatures_are_demanded_a_change_without_is_refused_before_any_work(
    signed, maker, photos, table, capsys
):
    for words in every_changing_command(signed, table, photos):
        code, out, err = run(capsys, classes.main, *words, "--require-signature", maker.public)
        assert (code, out) == (2, ""), words
        assert err.startswith("error: E-SIGN: signatures by"), words
        assert err.count("\n") == 1
    assert Bundle.open(signed).current().number == 1


def test_a_change_of_a_signed_bundle_without_a_signature_says_what_follows(signed, maker, capsys):
    code, _, err = run(capsys, classes.main, "remove", "--engine", signed, "robin")
    assert code == 0
    assert "note: this bundle is signed, and the state of its classes that this makes will not be" in err
    assert run(capsys, classes.main, "list", "--engine", signed, "--require-signature", maker.public)[0] == 5
    code, out, _ = run(capsys, classes.main, "sign", "--engine", signed, "--sign", maker.private)
    assert (code, out) == (0, f"signed generation 1, 2 of {signed} by key {maker.hint[:16]}\n")
    assert run(capsys, classes.main, "list", "--engine", signed, "--require-signature", maker.public)[0] == 0


def test_a_certificate_needs_its_key(signed, maker, tmp_path, capsys):
    own = tmp_path / "own.crt"
    own.write_bytes(cert_pem(certificate("Maker", maker.key)))
    code, _, err = run(capsys, classes.main, "remove", "--engine", signed, "robin", "--sign-certificate", own)
    assert code == 2
    assert "--sign-certificate: is of a private key; give --sign, too" in err
    trusted = tmp_path / "trusted"
    shutil.copytree(maker.public.parent, trusted)
    (trusted / "maker.key").unlink()
    shutil.copy(own, trusted)
    words = ("--sign", maker.private, "--sign-certificate", own, "--require-signature", trusted)
    assert run(capsys, classes.main, "remove", "--engine", signed, "robin", *words)[0] == 0
    assert Bundle.open(signed, require_signature=trusted).current().number == 2
