"""Who made a bundle: signatures of what is fixed and of each generation, held against the keys that a site trusts.

A signature has the form of model-signing (OpenSSF): names of files with their sha256 sums as an in-toto statement, in a
DSSE envelope, in a Sigstore bundle, which is JSON. `model.sig` covers manifest.json and every file that it lists,
`classes/00000N.sig` covers manifest.json and `classes/00000N.safetensors`: so a generation belongs to one model, and
classes can be added without touching the first signature. Nothing is hashed twice: the sums that are signed are those
that opening a bundle compares with the files anyway. Needs the package cryptography, and no network.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zsl_runtime.bundle.manifest import CLASSES, MANIFEST, SIGNATURE
from zsl_runtime.errors import ArtefactError, BackendError, UsageError, from_os_error, shown
from zsl_runtime.extras import wanting
from zsl_runtime.machine.cache import cache_folder
from zsl_runtime.machine.notes import note_once
from zsl_runtime.machine.storage import write_whole
from zsl_runtime.machine.untrusted import UnfitError, parse_object, read_file, read_given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

REQUIRE = "ZSL_REQUIRE_SIGNATURE"  # a file or folder of keys: what --require-signature says, for every command
ADDITIONS = "additions"  # in a folder of keys: those that may sign generations, and nothing else
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
LARGEST_SIGNATURE = 1 << 20  # bytes; ours have some 5,000
LARGEST_KEYS = 1 << 20
LONGEST_CHAIN = 8  # certificates
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # those of model-signing
KEY_SUFFIXES = (".pem", ".pub", ".crt", ".cer")
SEEN = "signed-generations"  # in the cache folder
_SEEN_HERE: dict[str, tuple[int, str]] = {}  # by this process, where there is no cache folder
_MARK = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]+)-----")


class Signature(NamedTuple):
    """What a signature's file holds, nothing of it believed yet.

    Attributes:
        hint: sha256 of the public key's PEM, '' where there are certificates.
        chain: certificates (DER), the signer's first; empty where there is a key.
        payload: the statement, JSON.
        value: the signature itself.

    """

    hint: str
    chain: tuple[bytes, ...]
    payload: bytes
    value: bytes

    @property
    def claims(self) -> str:
        """Who it says that it is by; anybody can say so."""
        return told(self.hint, self.chain)


@dataclass(frozen=True)
class Keys:
    """Whom a site trusts.

    Attributes:
        place: the file or folder that they were read from.
        keys: sha256 of a public key's PEM -> the key.
        certificates: of makers, or of authorities that certify makers.
        additions: those who may sign generations, and nothing else.

    """

    place: Path
    keys: Mapping[str, EllipticCurvePublicKey] = field(default_factory=dict)
    certificates: tuple[x509.Certificate, ...] = ()
    additions: Keys | None = None

    def check(self, signature: Signature, *, generation: bool) -> str:
        """Who a signature is by.

        Args:
            signature: read, and not believed.
            generation: it is to cover a generation, which those of `additions` may sign as well.

        Returns:
            The key or certificate, as a part of a sentence.

        Raises:
            UnfitError: it is by nobody of these, or no signature of what it says.

        """
        try:
            return self._check(signature)
        except UnfitError as error:
            if not generation or self.additions is None:
                raise
            try:
                return f"{self.additions.check(signature, generation=True)} (additions alone)"
            except UnfitError:
                raise error from None

    def _check(self, signature: Signature) -> str:
        key, who = self.whose(signature.hint, signature.chain)
        check_value(signature, key)
        return who

    def whose(self, hint: str, chain: Sequence[bytes]) -> tuple[Any, str]:
        """The public key that a signature would have to be by, and whose that is; UnfitError for a stranger's.

        Args:
            hint: sha256 of a public key's PEM, where there is no certificate.
            chain: certificates (DER), the signer's first.

        """
        if chain:
            return certified(chain, self.certificates)
        key = self.keys.get(hint)
        if key is None:
            raise UnfitError(f"is by {told(hint, chain)}, which is none of the {len(self.keys)} of {self.place}")
        return key, told(hint, chain)

    def would_take(self, hint: str, chain: Sequence[bytes], *, generation: bool) -> bool:
        """Whether this key or certificate may sign a generation, or what is fixed."""
        for keys in (self, self.additions if generation else None):
            if keys is not None:
                with contextlib.suppress(UnfitError):
                    keys.whose(hint, chain)
                    return True
        return False


def told(hint: str, chain: Sequence[bytes]) -> str:
    """A key or certificate as messages name it: by the first digits of its sha256."""
    return f"certificate {hashlib.sha256(chain[0]).hexdigest()[:16]}" if chain else f"key {hint[:16]}"


# --- keys -----------------------------------------------------------------------------------------------------------


def required_keys(given: str | os.PathLike[str] | None, bundle: Path) -> Keys | None:
    """The keys by one of which a bundle must be signed.

    Args:
        given: file or folder of keys; None for that of $ZSL_REQUIRE_SIGNATURE.
        bundle: the folder to open, in which no key may lie.

    Returns:
        None where no signature is demanded.

    Raises:
        UsageError: E-KEY, they cannot be used.
        BackendError: E-PACKAGE.

    """
    named = os.fspath(given) if given is not None else os.environ.get(REQUIRE, "")
    if not named:
        if given is not None:
            raise UsageError("E-KEY", "--require-signature '': expected a file or folder of public keys")
        return None
    keys = read_keys(Path(named))
    if keys.place.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(
            "E-KEY",
            f"{named} lies in the bundle that it should vouch for: whoever can change the one can change the other; "
            "get the key on another way, and keep it elsewhere",
        )
    return keys


def read_keys(place: Path) -> Keys:
    """Public keys and certificates of a PEM file, or of the .pem, .pub, .crt and .cer files of a folder.

    Those in a folder `additions` inside it may sign generations, and nothing else.

    Raises:
        UsageError: E-KEY, there are none, or one of them cannot be used.
        BackendError: E-PACKAGE.

    """
    need_cryptography()
    try:
        if not place.is_dir():
            return _keys(place, [place])
        files = sorted(path for path in place.iterdir() if path.suffix.lower() in KEY_SUFFIXES)
        inner = place / ADDITIONS
        additions = read_keys(inner) if inner.is_dir() else None
    except OSError as error:
        raise from_os_error(error, "read the keys") from error
    keys = _keys(place, files)
    return Keys(place, keys.keys, keys.certificates, additions)


def _keys(place: Path, files: Sequence[Path]) -> Keys:
    keys: dict[str, EllipticCurvePublicKey] = {}
    certificates: list[x509.Certificate] = []
    for path in files:
        for label, pem in _pems(path):
            if label == "CERTIFICATE":
                certificates.append(_certificate(pem, path))
            else:
                key = public_key(pem, path)
                keys[fingerprint(key)] = key
    if not keys and not certificates:
        raise UsageError(
            "E-KEY", f"{place} holds no public key and no certificate; expected PEM (-----BEGIN PUBLIC KEY-----)"
        )
    return Keys(place, keys, tuple(certificates))


def _pems(path: Path) -> list[tuple[str, bytes]]:
    """Label and text of each block of a PEM file; UsageError E-KEY for a private key and for anything else."""
    blocks: list[tuple[str, bytes]] = []
    begun: list[bytes] = []
    for line in read_pem(path).splitlines():
        mark = _MARK.fullmatch(line.strip())
        if mark and mark[1] == b"BEGIN":
            begun = [line]
        elif begun:
            begun.append(line)
            if mark and begun[0].strip() == b"-----BEGIN " + mark[2] + b"-----":
                blocks.append((mark[2].decode(), b"\n".join(begun) + b"\n"))
                begun = []
    for label, _ in blocks:
        if "PRIVATE" in label:
            raise UsageError(
                "E-KEY",
                f"{path} holds a private key, with which bundles are signed; here the public one is needed "
                "(openssl pkey -in KEY -pubout), and the private one stays with whoever signs",
            )
        if label not in {"PUBLIC KEY", "CERTIFICATE"}:
            raise UsageError("E-KEY", f"{path} holds {shown(label)}, expected PUBLIC KEY or CERTIFICATE")
    return blocks


def read_pem(path: Path) -> bytes:
    """A file of keys, of a size that such files have; UsageError E-KEY, SystemProblem."""
    try:
        data = read_given(path, LARGEST_KEYS, pipes=False)  # who signs reads it again
    except UnfitError as error:
        raise UsageError("E-KEY", f"{path} {error}; give a PEM file of keys, see docs/security.md") from None
    except OSError as error:
        raise from_os_error(error, "read the key") from error
    if b"-----BEGIN " not in data:
        raise UsageError("E-KEY", f"{path} is no PEM file: expected -----BEGIN ... in it; see docs/security.md")
    return data


def public_key(pem: bytes, path: Path) -> EllipticCurvePublicKey:
    """An elliptic-curve public key; UsageError E-KEY for any other."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("E-KEY", f"{path} holds no public key that can be read ({error})") from None
    return check_kind(key, str(path))


def check_kind(key: Any, where: str) -> EllipticCurvePublicKey:
    """Refuse keys that model-signing does not know: UsageError E-KEY."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    curve = key.curve.name if isinstance(key, EllipticCurvePublicKey) else None
    if curve not in CURVES:
        kind = type(key).__name__.lstrip("_").removesuffix("PublicKey")
        raise UsageError(
            "E-KEY",
            f"{where} holds a key of another kind ({curve or kind}), expected an elliptic curve P-256, P-384 or P-521 "
            "(openssl ecparam -name prime256v1 -genkey -noout -out KEY)",
        )
    assert isinstance(key, EllipticCurvePublicKey)
    return key


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Hex sha256 of a public key's PEM: what sha256sum says of the file that `openssl pkey -pubout` writes."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _certificate(pem: bytes, path: Path) -> x509.Certificate:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except unreadable() as error:
        raise UsageError("E-KEY", f"{path} holds no certificate that can be read ({error})") from None
    if not begins <= dt.datetime.now(dt.UTC) <= ends:
        raise UsageError(
            "E-KEY", f"{path} holds a certificate that is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, not today"
        )
    if hasattr(key, "curve"):
        check_kind(key, str(path))
    return certificate


def unreadable() -> tuple[type[Exception], ...]:
    """What the package raises for a certificate that is none, or of a kind that it does not know."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    own = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.AttributeNotFound)
    return (ValueError, TypeError, UnsupportedAlgorithm, Warning, *own)  # where warnings are errors


def need_cryptography() -> None:
    """BackendError E-PACKAGE where the package that checks signatures is not here."""
    try:
        import cryptography
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "E-PACKAGE", f"checking signatures needs {wanting('cryptography', error, 'verify')}"
        ) from None


# --- signatures -----------------------------------------------------------------------------------------------------


def read_signature(path: Path, *, within: Path) -> Signature:
    """A signature's file, in bounded time and memory.

    Raises:
        UnfitError: it is not there, is no plain file inside the bundle, or no signature.
        SystemProblem: it cannot be read.

    """
    try:
        data = read_file(path, LARGEST_SIGNATURE, within=within)
    except (FileNotFoundError, NotADirectoryError):
        raise UnfitError("is missing") from None
    except OSError as error:
        raise from_os_error(error, "read the signature") from error
    return parse_signature(data)


def parse_signature(data: bytes) -> Signature:
    """What a signature's file says; UnfitError for what is no signature."""
    document = parse_object(data)
    if document.get("mediaType") != MEDIA_TYPE:
        raise UnfitError(f"is of the type {shown(document.get('mediaType'))}, expected {MEDIA_TYPE}")
    envelope = _part(document, "dsseEnvelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise UnfitError(f"covers {shown(envelope.get('payloadType'))}, expected {PAYLOAD_TYPE}")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise UnfitError("does not hold exactly one signature")
    material = _part(document, "verificationMaterial")
    chain: tuple[bytes, ...] = ()
    hint = ""
    if "x509CertificateChain" in material:
        listed = _part(material, "x509CertificateChain").get("certificates")
        if not isinstance(listed, list) or not 0 < len(listed) <= LONGEST_CHAIN:
            raise UnfitError(f"does not hold 1 to {LONGEST_CHAIN} certificates")
        chain = tuple(_bytes(one.get("rawBytes") if isinstance(one, dict) else None) for one in listed)
    else:
        hint = _part(material, "publicKey").get("hint")  # type: ignore[assignment]
        if not isinstance(hint, str) or re.fullmatch("[0-9a-f]{64}", hint) is None:
            raise UnfitError("does not say by which key it was made")
    return Signature(hint, chain, _bytes(envelope.get("payload")), _bytes(signatures[0].get("sig")))


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = value.get(name)
    if not isinstance(part, dict):
        raise UnfitError(f"has no {name}")
    return part


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UnfitError("holds something that is not base64") from None


def check_value(signature: Signature, key: Any) -> None:
    """Hold a signature against a public key; UnfitError unless that key made it, of this very payload."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = getattr(getattr(key, "curve", None), "name", "")
    if curve not in CURVES:
        raise UnfitError("is by a key of another kind than P-256, P-384 or P-521")
    try:
        key.verify(signature.value, encoded(signature.payload), ec.ECDSA(getattr(hashes, CURVES[curve])()))
    except InvalidSignature:
        raise UnfitError(f"was not made by {signature.claims}, though it says so: it was changed") from None


def encoded(payload: bytes) -> bytes:
    """What of a payload is signed: DSSE's pre-authentication encoding (secure-systems-lab/dsse, protocol.md)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def certified(chain: Sequence[bytes], trusted: Sequence[x509.Certificate]) -> tuple[Any, str]:
    """The public key of a signer, who is trusted, or certified now by somebody who is; and who that is.

    Args:
        chain: certificates (DER) of the signature, the signer's first.
        trusted: authorities, or the signer's own certificate.

    Raises:
        UnfitError: there is no such chain of certificates that are valid today and made for this.

    """
    from cryptography import x509
    from cryptography.x509 import verification

    if not trusted:
        raise UnfitError("is by a certificate, and only keys are trusted here")

    def may_certify(_policy: object, _certificate: object, extension: x509.BasicConstraints) -> None:
        if not extension.ca:
            raise ValueError("a certificate that may not certify others")

    def may_sign_certificates(_policy: object, _certificate: object, extension: x509.KeyUsage | None) -> None:
        if extension is not None and not extension.key_cert_sign:
            raise ValueError("a certificate that may not certify others")

    def may_sign(_policy: object, _certificate: object, extension: x509.KeyUsage | None) -> None:
        if extension is not None and not extension.digital_signature:
            raise ValueError("a certificate that may not sign")

    # What web servers' certificates must have besides, such as a host's name, makers of models do not.
    any_of = verification.Criticality.AGNOSTIC
    authority = verification.ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, any_of, may_certify)
    authority = authority.may_be_present(x509.KeyUsage, any_of, may_sign_certificates)
    signer = verification.ExtensionPolicy.permit_all().may_be_present(x509.KeyUsage, any_of, may_sign)
    try:
        own, *others = map(x509.load_der_x509_certificate, chain)
        builder = verification.PolicyBuilder().store(verification.Store(list(trusted))).time(dt.datetime.now(dt.UTC))
        builder = builder.max_chain_depth(LONGEST_CHAIN).extension_policies(ca_policy=authority, ee_policy=signer)
        builder.build_client_verifier().verify(own, others)
        key, name = own.public_key(), own.subject.rfc4514_string()
    except verification.VerificationError as error:
        said = " ".join(str(error).partition(" (encountered")[0].split())
        raise UnfitError(f"is by a certificate that nobody trusted here vouches for today ({said})") from None
    except unreadable() as error:
        raise UnfitError(f"holds a certificate that cannot be read ({shown(str(error), 80)})") from None
    return key, f"{told('', chain)} of {shown(name, 60)}"


def statement_of(signature: Signature) -> dict[str, str]:
    """Name -> sha256 of the files that a signature covers, once it is known to be good; UnfitError."""
    statement = parse_object(signature.payload)
    if (statement.get("_type"), statement.get("predicateType")) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise UnfitError(f"covers {shown(statement.get('predicateType'))}, expected {PREDICATE_TYPE}")
    predicate, subjects = _part(statement, "predicate"), statement.get("subject")
    kind = _part(predicate, "serialization")
    if (kind.get("method"), kind.get("hash_type")) != ("files", "sha256"):
        raise UnfitError("does not cover whole files by their sha256")
    resources = predicate.get("resources")
    if not isinstance(resources, list) or not isinstance(subjects, list) or len(subjects) != 1:
        raise UnfitError("does not list the files of one model")
    files: dict[str, str] = {}
    for one in resources:
        fits = isinstance(one, dict) and one.get("algorithm") == "sha256" and isinstance(one.get("name"), str)
        if not fits or re.fullmatch("[0-9a-f]{64}", str(one.get("digest"))) is None or one["name"] in files:
            raise UnfitError("lists a file without its sha256, or twice")
        files[one["name"]] = one["digest"]
    return files


# --- bundles --------------------------------------------------------------------------------------------------------


def generation_signature(folder: Path, number: int) -> Path:
    """Where the signature of generation `number` lies or would lie."""
    return folder / CLASSES / f"{number:06d}.sig"


def fixed_files(manifest_sha256: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the signature of the fixed part covers, `files` being those of the manifest."""
    return {MANIFEST: manifest_sha256, **{name: str(entry["sha256"]) for name, entry in files.items()}}


def generation_files(manifest_sha256: str, number: int, sha256: str) -> dict[str, str]:
    """What the signature of a generation covers."""
    return {MANIFEST: manifest_sha256, f"{CLASSES}/{number:06d}.safetensors": sha256}


def check_fixed(folder: Path, manifest_sha256: str, keys: Keys) -> dict[str, str]:
    """Hold manifest.json against the signature of the fixed part, before anything of it is believed.

    Returns:
        Name -> sha256 of all that is signed; the caller compares it with what the manifest lists.

    Raises:
        ArtefactError: E-SIGNATURE.

    """
    path = folder / SIGNATURE
    try:
        signature = read_signature(path, within=folder)
        keys.check(signature, generation=False)
        files = statement_of(signature)
    except UnfitError as error:
        raise refused(path, error, keys) from None
    if files.get(MANIFEST) != manifest_sha256:
        raise refused(path, UnfitError(f"is of another {MANIFEST} than the one that lies here"), keys)
    return files


def check_files(folder: Path, signed: Mapping[str, str], expected: Mapping[str, str], keys: Keys) -> None:
    """ArtefactError E-SIGNATURE unless exactly these files are signed."""
    if signed != expected:
        odd = sorted({*signed} ^ {*expected}) or sorted(name for name in signed if signed[name] != expected[name])
        raise refused(folder / SIGNATURE, UnfitError(f"does not agree with {MANIFEST} about {shown(odd[0])}"), keys)


def check_generation(folder: Path, manifest_sha256: str, number: int, sha256: str, keys: Keys) -> None:
    """Hold a generation's file against its signature, before anything of it is believed.

    Raises:
        ArtefactError: E-SIGNATURE.

    """
    path = generation_signature(folder, number)
    try:
        signature = read_signature(path, within=folder)
        keys.check(signature, generation=True)
        files = statement_of(signature)
    except UnfitError as error:
        raise refused(path, error, keys) from None
    if files != generation_files(manifest_sha256, number, sha256):
        raise refused(path, UnfitError("is of another generation, or of one of another model"), keys)


def refused(path: Path, error: UnfitError, keys: Keys) -> ArtefactError:
    """What is wrong with a signature, and what to do."""
    return ArtefactError(
        "E-SIGNATURE",
        f"signatures by {keys.place} are demanded, and {path} {error}; get the bundle again from its maker; or, if you "
        "trust somebody else, give their public key with --require-signature (docs/security.md)",
    )


# --- older states put back ------------------------------------------------------------------------------------------


def check_newest(folder: Path, manifest_sha256: str, number: int, sha256: str) -> None:
    """Refuse a signed generation that is older than one that this user has seen here: somebody put it back.

    Numbers only grow; going back is a new generation, too. What was seen is noted in the cache folder, a small file for
    each bundle and place; without a cache folder the process remembers it.

    Raises:
        ArtefactError: E-SIGNATURE-OLD.

    """
    kept = cache_folder()
    place = hashlib.sha256(f"{manifest_sha256} {folder.resolve()}".encode(errors="surrogateescape")).hexdigest()[:32]
    path = None if kept is None else kept / SEEN / place
    seen = _SEEN_HERE.get(place) if path is None else (_seen(path) or _SEEN_HERE.get(place))
    if seen is not None and (number < seen[0] or (number == seen[0] and sha256 != seen[1])):
        older = "is older than" if number < seen[0] else "is another one than"
        raise ArtefactError(
            "E-SIGNATURE-OLD",
            f"generation {number} of {folder} is signed and {older} generation {seen[0]}, which was in force here "
            f"before: somebody put an older state back; if it was you, "
            f"{'start again' if place in _SEEN_HERE else f'delete {path}'}",
        )
    if seen is not None and number == seen[0]:
        return
    why = "this user has no home folder" if path is None else _keep(path, f"{number} {sha256}\n")
    if why:
        _SEEN_HERE[place] = number, sha256
        note_once(
            "signed-generations",
            "an older signed state of the classes that somebody puts back will not be noticed by the next program "
            f"({why}): set ZSL_CACHE to a folder that stays",
        )


def _keep(path: Path, line: str) -> str:
    """Write a note into the cache folder; why that failed, '' where it did not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, line.encode())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _seen(path: Path) -> tuple[int, str] | None:
    try:
        number, sha256 = read_file(path, 200).decode().split()
        return int(number), sha256
    except (OSError, ValueError):
        return None
