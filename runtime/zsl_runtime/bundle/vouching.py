"""Vouching for a bundle that is there: its signatures are made, or made anew with another key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.manifest import CLASSES, SIGNATURE
from zsl_runtime.bundle.signatures import check_fixed, check_generation, generation_signature, required_keys
from zsl_runtime.bundle.signing import check_taken, sign_fixed, sign_generation
from zsl_runtime.errors import ArtefactError, from_os_error
from zsl_runtime.machine.storage import stage, sync_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from zsl_runtime.bundle.signatures import Keys
    from zsl_runtime.bundle.signing import Signer


def open_to_vouch(place: str | os.PathLike[str], signer: Signer, *, fixed: bool, check: bool = False) -> Bundle:
    """Open a bundle, every hash of it compared, whose signatures are to be made.

    Args:
        place: of the bundle.
        signer: who will sign; where signatures are demanded, theirs must be taken.
        fixed: also what is fixed at the export; without it the signature of that, if one is demanded, is checked.
        check: the signatures that are there are checked as for everybody else.

    Raises:
        UsageError, ArtefactError, SystemProblem: as `Bundle.open`; E-SIGN, what would be signed would be refused.

    """
    bundle = Bundle.open(place, require_signature=None if check else False)
    for name in bundle.explain_files:
        bundle.verify_file(name)
    demanded = required_keys(None, bundle.path)
    if demanded is not None:
        check_taken(signer, demanded, generation=not fixed)
        if not fixed:
            check_fixed(bundle.path, bundle.manifest_sha256, demanded)
    return bundle


def sign_bundle(bundle: Bundle, signer: Signer, *, fixed: bool = True) -> tuple[int, ...]:
    """Sign a bundle that is there: what is fixed, and the generation in force with all that undo can go back to.

    Whoever signs vouches for what is there, whoever made it; every file is compared with its hash before.

    Args:
        bundle: opened, every hash of it checked.
        signer: who vouches.
        fixed: also what is fixed at the export; without it the generations alone, and of them those that nobody has
            signed whose signature is demanded, where some are.

    Returns:
        The numbers of the generations that were signed, ascending.

    Raises:
        ArtefactError: the bundle is damaged.
        BackendError: E-PACKAGE, E-SIGN-FAILED.
        SystemProblem: it cannot be written.

    """
    bare = replace(bundle, keys=None)
    with bundle.lock():
        made = dict(_generations(bare))
        demanded = None if fixed else required_keys(None, bundle.path)
        if demanded is not None:
            made = {number: sha256 for number, sha256 in made.items() if not _signed(bundle, number, sha256, demanded)}
        staged: list[tuple[Path, Path]] = []
        try:
            if fixed:
                data = sign_fixed(signer, bundle.path, bundle.manifest_sha256, bundle.manifest["files"])
                staged.append((stage(bundle.path, data), bundle.path / SIGNATURE))
            for number, sha256 in made.items():
                data = sign_generation(signer, bundle.path, bundle.manifest_sha256, number, sha256)
                staged.append((stage(bundle.path / CLASSES, data), generation_signature(bundle.path, number)))
            for partial, path in staged:
                partial.replace(path)
        except OSError as error:
            raise from_os_error(error, "sign the bundle") from error
        finally:
            for partial, _ in staged:
                partial.unlink(missing_ok=True)
        for folder in (bundle.path / CLASSES, bundle.path):
            sync_folder(folder)
    return tuple(sorted(made))


def _signed(bundle: Bundle, number: int, sha256: str, keys: Keys) -> bool:
    """Whether a generation has a good signature by one of these keys."""
    try:
        check_generation(bundle.path, bundle.manifest_sha256, number, sha256, keys)
    except ArtefactError:
        return False
    return True


def _generations(bundle: Bundle) -> Iterable[tuple[int, str]]:
    """Number and sha256 of the generation in force and of those before it, as far as they are there and whole."""
    generation = bundle.current()
    yield generation.number, bundle.pointer()[1]
    while generation.parent and bundle.generation_path(generation.parent).exists():
        number, sha256 = generation.parent, generation.parent_sha256
        generation = bundle.generation(number, sha256)
        yield number, sha256
    if generation.number > 1 and bundle.generation_path(1).exists():  # after `prune` it stands alone, for the probe
        known = [entry.get("sha256") for entry in bundle.history()[0] if entry.get("number") == 1]
        if len(known) == 1 and isinstance(known[0], str):
            bundle.generation(1, known[0])
            yield 1, known[0]
