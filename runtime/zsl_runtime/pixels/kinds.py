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
        picture: whether it is a picture at all.

    """

    one: str
    many: str
    remedy: str
    picture: bool = True


HEIC = Unread("a HEIC picture", "HEIC pictures", "save as JPEG first, with sips (macOS), heif-dec or ImageMagick")
RAW = Unread("a camera's raw file", "cameras' raw files", "export as JPEG or TIFF first")
JXL = Unread("a JPEG XL picture", "JPEG XL pictures", "save as JPEG or PNG first (djxl does it without loss)")
JXR = Unread("a JPEG XR picture", "JPEG XR pictures", "save as JPEG or PNG first")
LAYERS = Unread("a picture in layers", "pictures in layers (PSD, XCF and the like)", "export as JPEG or PNG first")
DRAWING = Unread("a vector drawing", "vector drawings (SVG, EPS and the like)", "export as PNG first", picture=False)
ICON = Unread("an icon", "icons", "save the size you want as PNG first")
HDR = Unread("a picture of high dynamic range", "pictures of high dynamic range", "tone-map and save as JPEG first")
SCIENCE = Unread(
    "a scientific picture, whose white is unknown",
    "scientific pictures (DICOM, FITS and the like)",
    "save as PNG with 8 bits a sample first",
)
OLD = Unread("a picture of a rare format", "pictures of rare formats", "save as PNG or JPEG first")

FILM = Unread("a film", "films", "save the frames you want as JPEG first", picture=False)
DOCUMENT = Unread("a document", "documents", "save the photographs in it as JPEG first", picture=False)
ARCHIVE = Unread("an archive", "archives", "give it its suffix, such as .zip or .tar, or unpack it", picture=False)
PAGE = Unread(
    "a web page, such as servers send when a picture is not there", "web pages", "download it again", picture=False
)
POINTER = Unread(
    "a pointer of Git LFS to a file that was not fetched", "pointers of Git LFS", "run git lfs pull", picture=False
)
CLOUD = Unread(
    "a property list, such as iCloud leaves in place of what it moved away",
    "property lists",
    "let the photograph be downloaded first",
    picture=False,
)
FORK = Unread(
    "what macOS notes about a file (AppleDouble)",
    "notes of macOS (AppleDouble)",
    "take the file that is called so without ._ in front",
    picture=False,
)
ZEROS = Unread(
    "a file of zeros, such as broken copies and cards leave", "files of zeros", "copy it again", picture=False
)
TEXT = Unread("text", "texts", "look into it: a server's message, perhaps; download it again", picture=False)

# Suffixes of pictures that are left out of folders, in lower case with the dot. Films and documents are not among them:
# nobody expects them to be labelled.
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs", ".avci", ".avcs"), HEIC),
    **dict.fromkeys(
        (
            *(".nef", ".nrw", ".dng", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".srw", ".raf", ".rw2", ".rwl"),
            *(".orf", ".ori", ".pef", ".ptx", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".dcs", ".k25", ".mrw", ".mef"),
            *(".mos", ".iiq", ".x3f", ".gpr", ".raw", ".eip", ".r3d"),
        ),
        RAW,
    ),
    ".jxl": JXL,
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), JXR),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".ora", ".pdn", ".afphoto", ".procreate"), LAYERS),
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

# Where the bytes stand, the bytes, what they are the mark of.
MARKS = (
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", JXL),
    (0, b"\xff\x0a", JXL),
    (0, b"II\xbc\x01", JXR),
    *((0, mark, RAW) for mark in (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"IIII", b"MMMM", b"FUJIFILMCCD-RAW", b"FOVb")),
    *((0, mark, RAW) for mark in (b"\0MRM", b"ARRI", b"RED1", b"RED2")),
    (6, b"HEAPCCDR", RAW),
    *((0, mark, LAYERS) for mark in (b"8BPS", b"gimp xcf", b"PDN3")),
    *((30, b"mimetype" + kind, LAYERS) for kind in (b"image/openraster", b"application/x-krita")),
    *((0, mark, DRAWING) for mark in (b"%!PS", b"\xc5\xd0\xd3\xc6", b"\xd7\xcd\xc6\x9a")),
    *((0, mark, ICON) for mark in (b"\0\0\1\0", b"\0\0\2\0", b"icns")),
    *((0, mark, HDR) for mark in (b"v/1\1", b"#?RADIANCE", b"#?RGBE")),
    (128, b"DICM", SCIENCE),
    (0, b"SIMPLE  =", SCIENCE),
    *((0, mark, OLD) for mark in (b"DDS ", b"qoif", b"BPG\xfb", b"FLIF", b"\xff\xd8\xff\xf7", b"\x01\xda\0\1")),
    *((0, mark, OLD) for mark in (b"\x0a\5\1", b"\x59\xa6\x6a\x95", b"/* XPM */", b"P7\n", b"AT&TFORM")),
    (0, b"%PDF", DOCUMENT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", DOCUMENT),
    (0, b"{\\rtf", DOCUMENT),
    *((0, mark, FILM) for mark in (b"\x1aE\xdf\xa3", b"FLV\1", b"\0\0\1\xba", b"\0\0\1\xb3")),
    (8, b"AVI LIST", FILM),
    (4, b"moov", FILM),
    (4, b"mdat", FILM),
    *((0, mark, ARCHIVE) for mark in (b"PK\3\4", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\xfd7zXZ")),
    (0, b"\x28\xb5\x2f\xfd", ARCHIVE),
    (257, b"ustar", ARCHIVE),
    (0, b"version https://git-lfs.github.com/spec/", POINTER),
    (0, b"bplist00", CLOUD),
    (0, b"\0\5\x16\7", FORK),
)
# First bytes of what is read: such a file is damaged, or of a rare sort.
READ = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"GIF8": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"II+\0": "a TIFF picture",
    b"MM\0+": "a TIFF picture",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
}
HEAD = 1024  # bytes of a file that are looked at
HEIC_BRANDS = frozenset((b"mif1", b"mif2", b"msf1", *(b"he" + end for end in (b"ic", b"ix", b"im", b"is", b"if"))))
HEVC_BRANDS = frozenset(b"hev" + end for end in (b"c", b"x", b"m", b"s"))


def recognise(head: bytes) -> Unread | None:
    """What a file is that Pillow does not know, by its first HEAD bytes; None when nothing tells."""
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    for place, mark, kind in MARKS:
        if head.startswith(mark, place):
            return kind
    if head and not any(head):
        return ZEROS
    return _written(head)


def read_kind(head: bytes) -> str | None:
    """'a PNG picture' for the beginning of a file that should be readable; None for any other."""
    if head[4:8] == b"ftyp" and _iso_media(head) is None:
        return "an AVIF picture"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "a WebP picture"
    return next((kind for mark, kind in READ.items() if head.startswith(mark)), None)


def _iso_media(head: bytes) -> Unread | None:
    """HEIC, Canon's raw files and films share one container; None for AVIF, which is read."""
    end = min(int.from_bytes(head[:4]), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return None
    if head[8:12] == b"crx ":
        return RAW
    return HEIC if brands & (HEIC_BRANDS | HEVC_BRANDS) else FILM


def _written(head: bytes) -> Unread | None:
    """What a file of letters is."""
    try:
        text = head.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the last letter may be cut in two
            return None
        text = head[: error.start].decode(errors="replace")
    start = text.lstrip().lower()
    if "<svg" in start:
        return DRAWING
    if start.startswith(("<!doctype html", "<html", "<?xml", "<head", "<body")):
        return PAGE
    plain = all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)
    return TEXT if plain and text.strip() else None
