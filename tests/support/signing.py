"""Keys, certificates and signatures made by hand after the specifications, and a stand-in for model-signing.

The form is that of three specifications: DSSE's envelope and its encoding before signing (secure-systems-lab/dsse),
in-toto's Statement v1, and Sigstore's bundle v0.3. `STAND_IN` has what `zsl_runtime.bundle.signing` calls of the
library, and nothing else; tests/runtime/bundle/test_model_signing.py holds both to the library itself.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    import pytest

TYPE = b"application/vnd.in-toto+json"
HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}


# --- keys -----------------------------------------------------------------------------------------------------------


def new_key(curve=None):
    return ec.generate_private_key(curve or ec.SECP256R1())


def private_pem(key, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_keys(folder: Path, name: str, key=None, **pem) -> SimpleNamespace:
    """`NAME.key` and `NAME.pub` in a folder, as openssl would write them."""
    key = key or new_key()
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(private_pem(key, **pem))
    private.chmod(0o600)
    public.write_bytes(public_pem(key))
    return SimpleNamespace(key=key, private=private, public=public, hint=hashlib.sha256(public_pem(key)).hexdigest())


def certificate(name, key, by=None, by_key=None, *, authority=False, days=(-1, 30), may_sign=True, usage=True):
    """An X.509 certificate valid from `days[0]` to `days[1]` days from now, self-signed without `by`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if usage:
        bits = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        bits |= {"encipher_only": False, "decipher_only": False}
        bits |= {"digital_signature": may_sign and not authority, "key_cert_sign": authority}
        builder = builder.add_extension(x509.KeyUsage(**bits), critical=True)
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return builder.sign(by_key or key, hashes.SHA256())


def cert_pem(*certificates) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def write_certified(folder: Path):
    """An authority, one below it, and a maker whom that one certifies: keys by name, and the three certificates.

    The authority is in root.crt, the other two in chain.crt, the maker's own first; the maker's key is in key.pem.
    """
    keys = {name: new_key() for name in ("root", "middle", "maker")}
    root = certificate("Root", keys["root"], authority=True)
    middle = certificate("Middle", keys["middle"], root, keys["root"], authority=True)
    own = certificate("Maker", keys["maker"], middle, keys["middle"])
    (folder / "root.crt").write_bytes(cert_pem(root))
    (folder / "chain.crt").write_bytes(cert_pem(own, middle))
    (folder / "key.pem").write_bytes(private_pem(keys["maker"]))
    (folder / "key.pem").chmod(0o600)
    return keys, root, middle, own


# --- signatures -----------------------------------------------------------------------------------------------------


def statement(files: dict[str, str], **changes) -> bytes:
    """The in-toto statement of name -> sha256."""
    listed = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in listed)).hexdigest()
    whole = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "bundle", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in listed],
        },
    }
    return json.dumps({**whole, **changes}).encode()


def envelope(key, payload: bytes, *, chain=(), hint: str | None = None) -> dict:
    """The Sigstore bundle of a payload that `key` signs, as an object to be changed and written."""
    signed = b"DSSEv1 28 " + TYPE + b" " + str(len(payload)).encode() + b" " + payload
    value = key.sign(signed, ec.ECDSA(HASHES[key.curve.name]))
    if chain:
        listed = [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode() for one in chain]
        material = {"x509CertificateChain": {"certificates": [{"rawBytes": one} for one in listed]}}
    else:
        material = {"publicKey": {"hint": hint or hashlib.sha256(public_pem(key)).hexdigest()}}
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": TYPE.decode(),
            "signatures": [{"sig": base64.b64encode(value).decode(), "keyid": ""}],
        },
    }


def signature(key, files: dict[str, str], **more) -> bytes:
    return json.dumps(envelope(key, statement(files), **more)).encode()


def fixed(bundle: Path) -> dict[str, str]:
    """What model.sig must cover, hashed here."""
    names = ["manifest.json", *json.loads((bundle / "manifest.json").read_bytes())["files"]]
    return {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in names}


def of_generation(bundle: Path, number: int) -> dict[str, str]:
    """What the signature of a generation must cover, hashed here."""
    names = ["manifest.json", f"classes/{number:06d}.safetensors"]
    return {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in names}


def sign_by_hand(bundle: Path, key, *, generations=(1,), **more) -> None:
    (bundle / "model.sig").write_bytes(signature(key, fixed(bundle), **more))
    for number in generations:
        (bundle / "classes" / f"{number:06d}.sig").write_bytes(signature(key, of_generation(bundle, number), **more))


# --- a stand-in for the library -------------------------------------------------------------------------------------


class _Hashing:
    def hash(self, path):
        """Of a file alone: its one resource."""
        assert Path(path).is_file()
        digest = SimpleNamespace(hex=hashlib.sha256(Path(path).read_bytes()).hexdigest())
        return SimpleNamespace(resource_descriptors=lambda: iter([SimpleNamespace(digest=digest)]))


class _Kind:
    def __init__(self, args) -> None:
        assert args == {**args, "method": "files", "hash_type": "sha256", "allow_symlinks": False}
        self.args = args

    def new_item(self, name, digest):
        return str(PurePosixPath(name)), digest.hex


class _Signing:
    def set_hashing_config(self, config):
        self.hashing = config
        return self

    def use_elliptic_key_signer(self, *, private_key, password):
        self.key = serialization.load_pem_private_key(Path(private_key).read_bytes(), password)
        self.chain = ()

    def use_certificate_signer(self, *, private_key, signing_certificate, certificate_chain):
        self.use_elliptic_key_signer(private_key=private_key, password=None)
        files = [signing_certificate, *certificate_chain]
        self.chain = [one for file in files for one in x509.load_pem_x509_certificates(Path(file).read_bytes())]
        assert self.chain[0].public_key() == self.key.public_key()

    def sign(self, model, place):
        Path(place).write_bytes(signature(self.key, self.hashing.hash(model), chain=self.chain))


STAND_IN = SimpleNamespace(
    hashing=SimpleNamespace(Config=_Hashing),
    manifest=SimpleNamespace(
        SerializationType=SimpleNamespace(from_args=_Kind), Manifest=lambda _name, items, _kind: dict(items)
    ),
    signing=SimpleNamespace(Config=_Signing),
)


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Let the stand-in sign, wherever this process signs."""
    patch.setattr("zsl_runtime.bundle.signing._model_signing", lambda: STAND_IN)
    patch.setattr("zsl_runtime.bundle.signing._need_model_signing", lambda: None)
