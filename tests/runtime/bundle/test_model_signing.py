"""Our signatures and model-signing itself (OpenSSF): each takes the other's, and refuses what the other refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.signing import cert_pem, certificate, new_key, sign_by_hand, write_certified, write_keys
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.signing import open_signer
from zsl_runtime.bundle.vouching import open_to_vouch, sign_bundle
from zsl_runtime.classes.changes import remove_classes
from zsl_runtime.errors import ArtefactError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
pytest.importorskip("model_signing", reason="the extra `sign` is not installed")


@pytest.fixture
def signed(own_bundle, maker):
    """Signed with the library, and with a class less, signed as well."""
    path, signer = own_bundle(rule="gaussian"), open_signer(maker.private)
    sign_bundle(open_to_vouch(path, signer, fixed=True), signer)
    remove_classes(Bundle.open(path, signer=signer), ["wren"])
    return path


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, words)], capture_output=True, text=True, check=False
    )


def verified(path: Path, signature: Path, public: Path, *more: str) -> bool:
    """Whether the command of model-signing takes a signature."""
    done = command("verify", "key", path, "--signature", signature, "--public_key", public, *more)
    assert ("Verification succeeded" in done.stdout + done.stderr) == (done.returncode == 0), done.stderr
    return done.returncode == 0


def test_anybody_can_check_a_bundle_with_model_signing_alone(signed, maker, tmp_path):
    assert verified(signed, signed / "model.sig", maker.public)
    for number in (1, 2):
        signature = signed / "classes" / f"{number:06d}.sig"
        assert verified(signed, signature, maker.public, "--ignore_unsigned_files")
        assert not verified(signed, signature, write_keys(tmp_path, "x").public, "--ignore_unsigned_files")
    assert not verified(signed, signed / "model.sig", write_keys(tmp_path, "other").public)
    (signed / "model.onnx").write_bytes(b"another graph")
    assert not verified(signed, signed / "model.sig", maker.public)


def test_both_take_what_was_signed_by_hand(own_bundle, maker):
    """That is: the signatures of the quick tests are such as the library takes."""
    path = own_bundle()
    sign_by_hand(path, maker.key)
    assert Bundle.open(path, require_signature=maker.public)
    assert verified(path, path / "model.sig", maker.public, "--ignore_unsigned_files")
    assert verified(path, path / "classes" / "000001.sig", maker.public, "--ignore_unsigned_files")


def test_a_bundle_that_the_command_signed_opens(own_bundle, maker):
    path = own_bundle()
    sign_by_hand(path, new_key())
    listed = json.loads((path / "manifest.json").read_bytes())["files"]
    others = [one for one in path.iterdir() if one.name != "manifest.json" and one.name not in listed]
    ignored = [word for one in others for word in ("--ignore-paths", one)]
    key = ("--private_key", maker.private)
    done = command("sign", "key", path, *key, "--signature", path / "model.sig", *ignored)
    assert done.returncode == 0, done.stderr
    signer = open_signer(maker.private)
    sign_bundle(open_to_vouch(path, signer, fixed=False), signer, fixed=False)
    assert Bundle.open(path, require_signature=maker.public).current().number == 1


def test_certificates(own_bundle, tmp_path):
    write_certified(tmp_path)
    (tmp_path / "other.crt").write_bytes(cert_pem(certificate("Root", new_key(), authority=True)))
    path, signer = own_bundle(), open_signer(tmp_path / "key.pem", tmp_path / "chain.crt")
    sign_bundle(open_to_vouch(path, signer, fixed=True), signer)
    for root_file, good in (("root.crt", True), ("other.crt", False)):
        words = ("verify", "certificate", path, "--signature", path / "model.sig", "--certificate_chain")
        assert (command(*words, tmp_path / root_file).returncode == 0) == good
        if good:
            assert Bundle.open(path, require_signature=tmp_path / root_file).current().number == 1
        else:
            with pytest.raises(ArtefactError, match="E-SIGNATURE"):
                Bundle.open(path, require_signature=tmp_path / root_file)


def test_an_encrypted_key(own_bundle, tmp_path, monkeypatch):
    hidden = write_keys(tmp_path, "hidden", password=b"long word")
    monkeypatch.setenv("ZSL_SIGN_PASSWORD", "long word")
    path, signer = own_bundle(), open_signer(hidden.private)
    sign_bundle(open_to_vouch(path, signer, fixed=True), signer)
    assert verified(path, path / "model.sig", hidden.public)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_signing_and_checking_open_no_connection_and_write_into_bundle_and_cache_alone(own_bundle, maker, tmp_path):
    path, home, log = own_bundle(), tmp_path / "home", tmp_path / "strace"
    home.mkdir()
    code = (
        "from zsl_runtime.bundle.vouching import open_to_vouch, sign_bundle\n"
        "from zsl_runtime.bundle.signing import open_signer\n"
        f"signer = open_signer({str(maker.private)!r})\n"
        f"sign_bundle(open_to_vouch({str(path)!r}, signer, fixed=True), signer)\n"
        "from zsl_runtime.bundle.bundle import Bundle\n"
        f"Bundle.open({str(path)!r}, require_signature={str(maker.public)!r})\n"
    )
    traced = "trace=connect,sendto,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", traced, "-o", log, sys.executable, "-c", code],
        env={**os.environ, "HOME": str(home), "ZSL_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    assert [line for line in calls if "connect(" in line or "sendto(" in line] == []
    writes = [line for line in calls if "O_WRONLY" in line or "O_RDWR" in line or "O_CREAT" in line or "mkdir" in line]
    writes = [line for line in writes if "/dev/" not in line]
    assert writes
    assert [line for line in writes if str(path) not in line and str(tmp_path / "cache") not in line] == []
    assert list(home.rglob("*")) == []
