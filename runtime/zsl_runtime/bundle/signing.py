"""Signing what is fixed of a bundle, and its generations, with a key of one's own and model-signing (OpenSSF).

The library makes the signature, of files that it hashes itself; what it made is checked by the code that checks it
everywhere else (`zsl_runtime.bundle.signatures`), against the sums that are known already. Nothing of it needs a
network.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsl_runtime.bundle.manifest import CLASSES, HISTORY, MANIFEST, SIGNATURE
from zsl_runtime.bundle.signatures import (
    LARGEST_SIGNATURE,
    Keys,
    Signature,
    certified,
    check_kind,
    fingerprint,
    fixed_files,
    generation_files,
    need_cryptography,
    parse_signature,
    read_pem,
    statement_of,
    told,
    unreadable,
)
from zsl_runtime.errors import ArtefactError, BackendError, UsageError, from_os_error, shown
from zsl_runtime.extras import wanting
from zsl_runtime.machine.notes import note_once
from zsl_runtime.machine.storage import LOCK, temporary_name
from zsl_runtime.machine.untrusted import UnfitError, read_file

if TYPE_CHECKING:
    from collections.abc import Mapping

PASSWORD = "ZSL_SIGN_PASSWORD"  # of a private key that is encrypted  # noqa: S105
# What a bundle holds besides what is signed: those who verify with model-signing alone pass over it.
NOT_SIGNED = (SIGNATURE, CLASSES, HISTORY, "parity.json", "engines", "cache", LOCK, f"{LOCK}.holder")
OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True)
class Signer:
    """Who signs.

    Attributes:
        key: file of the private key (PEM).
        certificates: file with the signer's certificate (PEM), and with those that lead to an authority; None for a
            key alone.
        password: of the key; None where it is not encrypted.
        own: the public key or the certificate, as somebody trusts it.
        chain: the certificates (DER), empty for a key alone.

    """

    key: Path
    certificates: Path | None
    password: bytes | None = field(repr=False)
    own: Keys
    chain: tuple[bytes, ...] = ()

    @property
    def told(self) -> str:
        """The key or certificate, as messages name it."""
        return told(self.hint, self.chain)

    @property
    def hint(self) -> str:
        """The sha256 of the public key's PEM, '' where there is a certificate."""
        return next(iter(self.own.keys), "")

    def sign(self, files: Mapping[str, Path], expected: Mapping[str, str], folder: Path) -> bytes:
        """The signature's file for some files.

        Args:
            files: name in the bundle -> where it lies now.
            expected: name -> sha256 that is known of it already.
            folder: takes temporary files.

        Raises:
            ArtefactError: E-SIGN-CHANGED, a file is not what it was.
            BackendError: E-PACKAGE, E-SIGN-FAILED.
            SystemProblem: the system said no.

        """
        work = temporary_name(folder / "signature")
        try:
            work.mkdir()
            data = self._signed(files, folder, work)
            self._check(parse_signature(data), expected, folder)
        except OSError as error:
            raise from_os_error(error, "sign the bundle") from error
        except UnfitError as error:
            raise BackendError("E-SIGN-FAILED", f"model-signing made a signature that {error}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return data

    def _check(self, signature: Signature, expected: Mapping[str, str], folder: Path) -> None:
        self.own.check(signature, generation=True)
        made = statement_of(signature)
        if made != expected:
            odd = next(name for name in sorted({*made, *expected}) if made.get(name) != expected.get(name))
            raise ArtefactError("E-SIGN-CHANGED", f"{odd} of {folder} changed while it was signed; nothing was signed")

    def _signed(self, files: Mapping[str, Path], folder: Path, work: Path) -> bytes:
        library: Any = _model_signing()
        hashing, manifest = library.hashing, library.manifest
        signed = {name.partition("/")[0] for name in files}
        ignored = [name for name in NOT_SIGNED if name not in signed]
        kind = manifest.SerializationType.from_args(
            {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ignored}
        )

        class Listed(hashing.Config):  # type: ignore[misc, name-defined]
            """Hashes the files of the list, under the names that they have in the bundle."""

            def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:  # noqa: ARG002
                items = []
                for name, place in files.items():
                    (found,) = hashing.Config().hash(place).resource_descriptors()
                    items.append(kind.new_item(name, found.digest))
                return manifest.Manifest(Path(model_path).name, items, kind)

        config = library.signing.Config().set_hashing_config(Listed())
        if self.certificates is None:
            config.use_elliptic_key_signer(private_key=self.key, password=self.password)
        else:
            own, chain = work / "own.pem", work / "chain.pem"
            pems = _split(self.certificates)
            own.write_bytes(pems[0])
            chain.write_bytes(b"".join(pems[1:]))
            others = [chain] if pems[1:] else []
            config.use_certificate_signer(private_key=self.key, signing_certificate=own, certificate_chain=others)
        made = work / "signature"
        config.sign(folder.resolve(), made)
        return read_file(made, LARGEST_SIGNATURE)


def open_signer(key: str | os.PathLike[str], certificates: str | os.PathLike[str] | None = None) -> Signer:
    """Who signs with a private key, and with a certificate where one is given.

    A key that is encrypted is opened with $ZSL_SIGN_PASSWORD.

    Raises:
        UsageError: E-KEY, key or certificate cannot be used, or do not belong together.
        BackendError: E-PACKAGE, the extra `sign` is not installed.

    """
    need_cryptography()
    path = Path(key)
    private, password = _private(path)
    _need_model_signing()
    public = check_kind(private.public_key(), str(path))
    if certificates is None:
        return Signer(path, None, password, Keys(path, {fingerprint(public): public}))
    if password is not None:
        raise UsageError(
            "E-KEY", f"{path} is encrypted, which does not go together with a certificate; decrypt it (openssl pkey)"
        )
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    place = Path(certificates)
    try:
        chain = [x509.load_pem_x509_certificate(pem) for pem in _split(place)]
        own = chain[0].public_key() if chain else None
    except unreadable() as error:
        raise UsageError("E-KEY", f"{place} holds no certificate that can be read ({error})") from None
    if own != public:
        raise UsageError("E-KEY", f"the first certificate of {place} is not that of the key {path}")
    ders = tuple(one.public_bytes(Encoding.DER) for one in chain)
    try:
        certified(ders, (chain[0],))
    except UnfitError as error:
        raise UsageError("E-KEY", f"a signature with {place} {error}: whoever checks it would refuse it") from None
    return Signer(path, place, None, Keys(place, {}, (chain[0],)), ders)


def check_taken(signer: Signer, demanded: Keys, *, generation: bool) -> None:
    """UsageError E-SIGN where what somebody signs would be refused by those who demand signatures."""
    if not demanded.would_take(signer.hint, signer.chain, generation=generation):
        raise UsageError(
            "E-SIGN",
            f"{signer.key} is none of those whose signatures are demanded here, {demanded.place}, so what it signs "
            "would be refused; sign with another key, or add the public half of this one to them",
        )


def _need_model_signing() -> None:
    """Whether it is there, without importing it: that takes a third of a second. BackendError E-PACKAGE."""
    for package in ("model_signing", "OpenSSL"):
        if importlib.util.find_spec(package) is None:
            error = ModuleNotFoundError(f"No module named {package!r}", name=package)
            raise BackendError("E-PACKAGE", f"signing needs {wanting(package, error, 'sign')}")


def _model_signing() -> Any:
    try:
        import model_signing
    except ImportError as error:
        package = "OpenSSL" if (error.name or "").startswith("OpenSSL") else "model_signing"
        raise BackendError("E-PACKAGE", f"signing needs {wanting(package, error, 'sign')}") from None
    return model_signing


def _private(path: Path) -> tuple[Any, bytes | None]:
    """The private key, and the password if it has one."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_pem(path)
    given = os.environ.get(PASSWORD)
    password = given.encode() if given and b"ENCRYPTED" in data else None
    try:
        key = load_pem_private_key(data, password)
    except TypeError:
        raise UsageError("E-KEY", f"the private key {path} is encrypted; set {PASSWORD} to its password") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        more = f", or {PASSWORD} is not its password" if password else ""
        raise UsageError(
            "E-KEY", f"{path} holds no private key that can be read{more} ({shown(str(error), 80)})"
        ) from None
    if hasattr(os, "getuid") and path.stat().st_mode & OTHERS_READ:
        note_once(f"private-key {path}", f"others can read the private key {path}; close it: chmod 600 {path}")
    return key, password


def _split(path: Path) -> list[bytes]:
    """The certificates of a PEM file, each for itself."""
    end = b"-----END CERTIFICATE-----"
    parts = read_pem(path).split(end)[:-1]
    return [part[part.index(b"-----BEGIN ") :] + end + b"\n" for part in parts if b"-----BEGIN " in part]


def sign_fixed(signer: Signer, folder: Path, manifest_sha256: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The signature of what is fixed; errors are those of `Signer.sign`."""
    expected = fixed_files(manifest_sha256, files)
    return signer.sign({name: folder / name for name in expected}, expected, folder)


def sign_generation(
    signer: Signer, folder: Path, manifest_sha256: str, number: int, sha256: str, *, place: Path | None = None
) -> bytes:
    """The signature of a generation, which lies at `place` if it has no name yet; errors as of `Signer.sign`."""
    expected = generation_files(manifest_sha256, number, sha256)
    files = {name: folder / name for name in expected}
    if place is not None:
        files[next(name for name in files if name != MANIFEST)] = place
    return signer.sign(files, expected, folder)
