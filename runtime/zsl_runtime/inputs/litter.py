"""What lies between photographs and is none of the user's: thumbnails, recycle bins, snapshots, by their names.

A folder or file of such a name is left out wherever folders, patterns and archives are looked through, and counted. The
one that is named itself is taken: a name on the command line, in a list or in a class table means what it says.
Everything whose name begins with a dot is hidden anyhow (.thumbnails, .Trash-1000, .picasaoriginals, .stversions, ._a).

Where the names come from: Synology (photonix PR 214, immich#7980, immich-go#319), QNAP, Windows, Linux and macOS by
their own manuals; the copies that a person makes (`Copy of a.jpg`, `a.sync-conflict-...jpg`) are photographs of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

THUMBNAILS = "thumbnails of a NAS"
DELETED = "what was deleted"
SNAPSHOTS = "older states of the same folders"
SYSTEM = "what the system keeps"
PREVIEWS = "previews of a photo library"
# In lower case: these come from systems whose names have no case, and are copied by others that have one.
FOLDERS = {
    "@eadir": THUMBNAILS,
    "@__thumb": THUMBNAILS,
    "#recycle": DELETED,
    "@recycle": DELETED,
    "$recycle.bin": DELETED,
    "#snapshot": SNAPSHOTS,
    "@recently-snapshot": SNAPSHOTS,
    "@sharesnap": SNAPSHOTS,
    "~snapshot": SNAPSHOTS,
    "@tmp": SYSTEM,
    "system volume information": SYSTEM,
    "lost+found": SYSTEM,
    "__macosx": SYSTEM,
    "network trash folder": DELETED,
    "temporary items": SYSTEM,
}
EXACT = {"RECYCLER": DELETED}  # of Windows XP; in small letters it is a word that a class may be called by
FOLDER_ENDS = {".lrdata": PREVIEWS}  # Lightroom's
LIBRARIES = (".photoslibrary", ".photolibrary", ".aplibrary")  # of macOS: a folder that looks like a file
LIBRARY_PHOTOGRAPHS = ("originals", "masters")  # the folders in it that hold the photographs themselves
FILE_BEGINNINGS = {"synofile_thumb_": THUMBNAILS, "synophoto_thumb_": THUMBNAILS}


def litter_folder(name: str, parent: str = "") -> str:
    """What a folder of this name is, to be counted under: '@eaDir (thumbnails of a NAS)'; '' for one of the user's.

    Args:
        name: of the folder.
        parent: name of the folder that it lies in.

    """
    lower = name.lower()
    what = EXACT.get(name) or FOLDERS.get(lower)
    if what:
        return f"{name} ({what})"
    for end, of_end in FOLDER_ENDS.items():
        if lower.endswith(end):
            return f"*{end} ({of_end})"
    library = next((end for end in LIBRARIES if parent.lower().endswith(end)), "")
    return f"*{library} ({PREVIEWS})" if library and lower not in LIBRARY_PHOTOGRAPHS else ""


def litter_file(name: str) -> str:
    """What a file of this name is, to be counted under; '' for one of the user's."""
    lower = name.lower()
    for beginning, what in FILE_BEGINNINGS.items():
        if lower.startswith(beginning):
            return f"{beginning.upper()}* ({what})"
    return ""


def litter_member(parts: Sequence[str]) -> str:
    """The same of a member of an archive, by the parts of its name."""
    folders = (litter_folder(name, parent) for name, parent in zip(parts[:-1], ("", *parts), strict=False))
    return next(filter(None, folders), "") or litter_file(parts[-1])
