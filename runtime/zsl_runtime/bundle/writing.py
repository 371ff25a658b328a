"""A bundle comes into being: written beside its place, then put there in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsl_runtime.bundle.bundle import Pointer, checked_size, file_entry
from zsl_runtime.bundle.manifest import (
    CLASSES,
    CURRENT,
    HISTORY,
    MANIFEST,
    SIGNATURE,
    check_manifest,
    check_names,
    format_for,
)
from zsl_runtime.bundle.signatures import generation_signature
from zsl_runtime.bundle.signing import sign_fixed, sign_generation
from zsl_runtime.errors import SystemProblem, UsageError, from_os_error
from zsl_runtime.machine.storage import (
    claimed_folder,
    copy_synced,
    exchange,
    exclusive,
    new_sibling,
    sha256_of,
    sync_folder,
    temporary_name,
    temporary_stem,
    write_synced,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.bundle.signing import Signer

_FIXED = {errno.EBUSY, errno.EXDEV}  # what the system says of a folder that cannot be moved: a volume, an image's
_OLD = "old-"  # marks a bundle that was moved aside, where two names cannot be swapped in one step


def write_bundle(
    dest: str | os.PathLike[str],
    *,
    manifest: Mapping[str, Any],
    files: Mapping[str, Path | bytes],
    generation: Generation,
    loose: Mapping[str, bytes] | None = None,
    force: bool = False,
    signer: Signer | None = None,
) -> Path:
    """Write a new bundle; `dest` is whole or, whatever happens, as it was.

    Args:
        dest: the folder to make. Its parents are made too.
        manifest: all of manifest.json but `format_version` and `files`, which are filled in.
        files: what the manifest will list: name in the bundle -> content, or a file to copy.
        generation: number 1.
        loose: name -> content of files that may be written anew later, so that the manifest does not list them.
        force: replace a bundle that is there; without it that is an error. The old one is removed after the new one
            stands in its place. A folder that is not a bundle is never replaced.
        signer: who signs what is fixed, and the generation; None leaves them unsigned.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: E-BUNDLE-EXISTS (needs force), E-BUNDLE-DEST (something else is there), E-GENERATION (number not 1).
        ArtefactError: E-BUNDLE-MANIFEST or E-BUNDLE-PATH when the manifest or a name could not be read back.
        BackendError: as `Signer.sign`.
        SystemProblem: the system said no; nothing is left behind.

    """
    if generation.number != 1:
        raise UsageError("E-GENERATION", f"a new bundle begins with generation 1, not {generation.number}")
    target = Path(dest).resolve()
    loose = loose or {}
    check_names({**files, **loose}, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clean_siblings(target)
        check_dest(target, force=force)
        with claimed_folder(lambda: new_sibling(target)) as building:
            try:
                _fill(building, manifest, files, generation)
                if signer is not None:
                    _sign(building, signer)
                for name, content in loose.items():
                    write_synced(building / name, content)
                sync_folder(building)
                _put_in_place(building, target, force=force)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
    except OSError as error:
        raise from_os_error(error, "write the bundle") from error
    return target


def _fill(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], generation: Generation) -> None:
    """Write every file of a bundle into `folder` and wait until all are on the disk."""
    listed = {}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            write_synced(path, content)
        else:
            copy_synced(content, path)
        listed[name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    whole = {"format_version": format_for(manifest), **manifest, "files": listed}
    views, _ = check_manifest(whole, folder)
    means = (generation.means is not None) == (whole["head"]["rule"] == "gaussian")
    if generation.head.views != views or list(generation.table.attributes) != whole["attributes"] or not means:
        raise UsageError("E-GENERATION", "the generation's views, attributes or means are not those of the manifest")
    data = (json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_synced(folder / MANIFEST, data)
    (folder / CLASSES).mkdir()
    state = checked_size(generation.to_bytes())
    digest = hashlib.sha256(state).hexdigest()
    write_synced(folder / CLASSES / f"{generation.number:06d}.safetensors", state)
    write_synced(folder / CLASSES / CURRENT, Pointer(1, digest, hashlib.sha256(data).hexdigest()).to_bytes())
    write_synced(folder / HISTORY, file_entry(generation, digest, {"names": generation.table.names}))
    for sub in (*{(folder / name).parent for name in files}, folder / CLASSES, folder):
        sync_folder(sub)


def _sign(folder: Path, signer: Signer) -> None:
    """Sign what is fixed of a bundle that was just filled, and its first generation."""
    data = (folder / MANIFEST).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    write_synced(folder / SIGNATURE, sign_fixed(signer, folder, digest, json.loads(data)["files"]))
    path = generation_signature(folder, 1)
    first = sha256_of(folder / CLASSES / "000001.safetensors")
    write_synced(path, sign_generation(signer, folder, digest, 1, first))
    sync_folder(folder / CLASSES)


def _put_in_place(building: Path, target: Path, *, force: bool) -> None:
    """Give the finished folder its name; an old bundle is removed after the new one stands."""
    if not (force and _is_bundle(target)):
        try:
            building.rename(target)  # replaces nothing but an empty folder
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise _fixed(target) from error
            if target.exists():
                raise _exists(target) from error
            raise
        sync_folder(target.parent)
        return
    with exclusive(target):
        if exchange(building, target):
            old = building
        else:
            old = temporary_name(target, _OLD)
            try:
                target.rename(old)
            except OSError as error:
                raise (_fixed(target) if error.errno in _FIXED else error) from error
            try:
                building.rename(target)
            except BaseException:
                old.rename(target)
                raise
        sync_folder(target.parent)
    # The new one stands. What cannot be removed of the old one, or is being removed by another export, is no failure.
    shutil.rmtree(old, ignore_errors=True)


def check_dest(target: Path, *, force: bool) -> None:
    """Refuse a place where `write_bundle` would not write: UsageError E-BUNDLE-EXISTS or E-BUNDLE-DEST."""
    if target.is_mount():
        raise _fixed(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_bundle(target):
        raise UsageError(
            "E-BUNDLE-DEST", f"{target} is there and is not a bundle, so it is not replaced; choose another place"
        )
    if not force:
        raise _exists(target)


def _fixed(target: Path) -> UsageError:
    return UsageError(
        "E-BUNDLE-DEST",
        f"{target} is a mount point or belongs to a container's image, so that a finished bundle cannot take its place "
        f"in one step; choose a folder inside it, such as {target / 'bundle'}",
    )


def _exists(target: Path) -> UsageError:
    return UsageError("E-BUNDLE-EXISTS", f"{target} exists; give --force to replace it, or choose another place")


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() and (path / CLASSES).is_dir()


def export_leftovers(target: Path) -> list[Path]:
    """Folders beside the bundle `target` in which it is being written, or was when its writer was killed."""
    pattern = re.compile(rf"{re.escape(temporary_stem(target))}-({_OLD})?[0-9a-f]{{8}}")
    found = (path for path in target.parent.iterdir() if pattern.fullmatch(path.name))
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def clean_siblings(target: Path) -> None:
    """Remove what killed writers of this very bundle left beside it, and put an old bundle back that lost its place.

    What cannot be removed (a writer at work holds its lock, or it is another user's) stays: it is in nobody's way.
    """
    for path in export_leftovers(target):
        with contextlib.suppress(OSError, SystemProblem), exclusive(path, wait=False):
            if not target.exists() and path.name.startswith(f"{temporary_stem(target)}-{_OLD}"):
                path.rename(target)
            else:
                shutil.rmtree(path)
