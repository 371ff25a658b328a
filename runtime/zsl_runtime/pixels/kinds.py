"""Files that are not read as photographs although people take them for such: what each is, and what to do with it.

By the name, for what is left out of folders; by the first bytes, for what was named and is something else than its
suffix says.
"""

from __future__ import annotations

from typing import NamedTuple


class Unread(NamedTuple):
    """A kind of file that is not read.

    Attributes:
        one: one of it, with its article: 'a HEIC picture'.
        many: several of it: 'HEIC pictures'.
        remedy: what to do, to stand after a semicolon.

    """

    one: str
    many: str
    remedy: str


HEIC = Unread(
    "a HEIC picture", "HEIC pictures", "save as JPEG first (iPhone: Settings, Camera, Formats, Most Compatible)"
)
RAW = Unread(
    "a camera's raw file", "cameras' raw files", "develop to JPEG or TIFF first, or take the camera's own JPEG"
)
JXL = Unread("a JPEG XL picture", "JPEG XL pictures", "save as JPEG or PNG first (djxl does it without loss)")
JXR = Unread("a JPEG XR picture", "JPEG XR pictures", "save as JPEG or PNG first")
LAYERS = Unread("a picture in layers", "pictures in layers (PSD, XCF and the like)", "export as JPEG or PNG first")
DRAWING = Unread("a drawing, not a photograph", "drawings (SVG, EPS and the like)", "export as PNG first")
ICON = Unread("an icon", "icons", "save the size you want as PNG first")
HDR = Unread("a picture of high dynamic range", "pictures of high dynamic range", "tone-map and save as JPEG first")
SCIENCE = Unread(
    "a scientific picture, whose white is unknown",
    "scientific pictures (DICOM, FITS and the like)",
    "save as PNG with 8 bits a sample first",
)
OLD = Unread("a picture of a rare format", "pictures of rare formats", "save as PNG or JPEG first")
LIVE = Unread("a film", "films", "save the frames you want as JPEG first")
DOCUMENT = Unread("a document", "documents", "save the photographs in it as JPEG first")

# Suffixes of pictures that are left out of folders, in lower case with the dot. Films and documents are not among them:
# nobody expects them to be labelled.
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs", ".avci", ".avcs"), HEIC),
    **dict.fromkeys(
        (
            *(".nef", ".nrw", ".dng", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".srw", ".raf", ".rw2", ".rwl"),
            *(".orf", ".ori", ".pef", ".ptx", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".dcs", ".k25", ".mrw", ".mef"),
            *(".mos", ".iiq", ".x3f", ".gpr", ".raw", ".rwz", ".cap", ".eip", ".bay", ".mdc", ".r3d"),
        ),
        RAW,
    ),
    ".jxl": JXL,
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), JXR),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".ora", ".pdn", ".afphoto", ".clip", ".procreate"), LAYERS),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf", ".cdr"), DRAWING),
    **dict.fromkeys((".ico", ".cur", ".icns"), ICON),
    **dict.fromkeys((".exr", ".hdr", ".rgbe", ".pfm"), HDR),
    **dict.fromkeys((".dcm", ".dicom", ".fits", ".fit", ".fts", ".nii", ".czi", ".nd2", ".lif"), SCIENCE),
    **dict.fromkeys(
        (
            *(".tga", ".pcx", ".dds", ".qoi", ".bpg", ".flif", ".jls", ".jpm", ".jph", ".jhc", ".dib"),
            *(".xpm", ".xbm", ".sgi", ".ras", ".pam", ".pict", ".pct", ".btf", ".tf8"),
        ),
        OLD,
    ),
}
