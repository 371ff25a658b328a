"""Damages files: any bytes, and where the format is known also its fields, so that what comes behind a length or a
checksum is reached, too."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

LARGEST = 1 << 16  # bytes of an input; what is slow because it is large is tried in test_bounds.py
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31)
NUMBERS = (*NUMBERS, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
TEXTS = (
    *("", " ", "\0", "\n", "\r\nerror: E-FORGED: x", "\x1b[2J\x1b]0;x\x07", "\u202e", "\u2028", "\u0085", "\x9b31m"),
    *("a" * 300, "../../x", "/etc/passwd", "=1+1", "nan", "inf", "-1", "1e999", "1_0", "\u0661", "\ufeff", "\ud800"),
    *("\U0001f600", "e\u0301", "\xe9", "%s{}", "null", "True", "name", "split", "seen", "."),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1 << 31, 1 << 63, 1 << 64, 10**400, 0.5, -0.0, 1e308, 1e999, -1e999),
    *(float("nan"), [], {}, [[]], [None], {"": None}, [0] * 50, {"a": {"b": {}}}, *TEXTS),
)
DEEP = 100_000  # brackets: more than any parser of ours may follow


def damaged(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to six changes of `data`; parts of `others` may get into it."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        ways = _ways(data)
        way = rng.choice(ways) if rng.random() < 0.6 else _any
        with contextlib.suppress(Exception):  # it is too damaged for its format by now
            data = way(data, others, rng)
    return data[:LARGEST]


def _ways(data: bytes) -> list[Callable[[bytes, Sequence[bytes], Random], bytes]]:
    """The changes that know the format of `data`."""
    found: list[Callable[[bytes, Sequence[bytes], Random], bytes]] = []
    start = data[:16]
    head = int.from_bytes(data[:8], "little")
    if start.startswith(b"\x89PNG"):
        found.append(_png)
    elif start.startswith((b"\xff\xd8", b"\xff\x4f")):
        found.append(_jpeg)
    elif start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        found.append(_tiff)
    elif start.startswith(b"RIFF"):
        found.append(_riff)
    elif start.startswith((b"BM", b"GIF8")) or start[4:8] in {b"ftyp", b"jP  "}:
        found.append(_sizes)
    elif start.startswith(b"PK"):
        found += [_zip_fields, _zip_members]
    elif start.startswith(b"\x1f\x8b"):
        found.append(_gzip)
    elif data[257:262] == b"ustar":
        found.append(_tar)
    elif start.startswith(b"\x93NUMPY"):
        found.append(_npy)
    elif data[8:9] == b"{" and head + 8 <= len(data):
        found.append(_tensors)
    elif start.lstrip()[:1] in {b"{", b"["} and b"\0" not in data:
        found += [_json, _json, _text]
    elif start[:1] in {b"\x08", b"\x0a"}:
        found.append(_protobuf)
    elif b"\0" not in data[:200]:
        found += [_text, _cells]
    return found or [_any]


def _any(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """What needs no format."""
    kind, at = rng.randrange(10), rng.randrange(len(data) + 1)
    if kind <= 1 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 2 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))]) + data[at + 1 :]
    if kind == 3:
        return data[:at]
    if kind == 4:
        return data[:at] + data[at + rng.choice((1, 2, 4, 16, 200)) :]
    if kind == 5:
        return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16, 200))) + data[at:]
    if kind == 6 and others:
        other = rng.choice(others)
        begin = rng.randrange(len(other) + 1)
        return (
            data[:at] + other[begin : begin + rng.choice((4, 32, 512, len(other)))] + data[at + rng.choice((0, 32)) :]
        )
    if kind == 7:
        size = rng.choice((1, 4, 64))
        return data[:at] + data[at : at + size] * rng.choice((2, 3, 50)) + data[at + size :]
    return _number(data, rng)


def _number(data: bytes, rng: Random, places: Sequence[tuple[int, int]] = ()) -> bytes:
    """Another number of 1 to 8 bytes, at one of the `places` (offset, size) or anywhere."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data) - size))
    if places:
        at, size = rng.choice(places)
    order = rng.choice(("little", "big"))
    before = int.from_bytes(data[at : at + size], order)
    near = rng.choice((before + 1, before - 1, before * 2, before // 2, ~before))
    value = rng.choice((rng.choice(NUMBERS), near)) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]


# --- text -------------------------------------------------------------------------------------------------------------


def _text(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Lines doubled, removed, moved, or with an odd text in them; another encoding."""
    lines = data.splitlines(keepends=True) or [b""]
    row, kind = rng.randrange(len(lines)), rng.randrange(8)
    odd = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    if kind == 0:
        lines.insert(row, lines[rng.randrange(len(lines))])
    elif kind == 1:
        del lines[row]
    elif kind == 2:
        at = rng.randrange(len(lines[row]) + 1)
        lines[row] = lines[row][:at] + odd + lines[row][at:]
    elif kind == 3:
        lines.insert(row, odd + b"\n")
    elif kind == 4:
        rng.shuffle(lines)
    elif kind == 5:
        return data.decode(errors="replace").encode(rng.choice(("utf-16", "utf-32", "utf-16-le", "utf-8-sig")))
    elif kind == 6:
        old, new = rng.sample((b",", b";", b"\t", b"|", b'"', b" ", b"\n", b"\r", b"=", b":"), 2)
        return data.replace(old, new, rng.choice((1, -1)))
    else:
        lines[row] *= rng.choice((2, 40))
    return b"".join(lines)


def _cells(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A cell of a table replaced, emptied or quoted."""
    parts = re.split(rb"([,;\t|\n =\[\]])", data)
    at = 2 * rng.randrange(len(parts) // 2 + 1)
    odd = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    number = str(rng.choice(NUMBERS) * rng.choice((1, -1))).encode()
    parts[at] = rng.choice((odd, number, b"", b'"' + parts[at] + b'"', b'"' + parts[at], b"9" * 5000, parts[at] * 3))
    return b"".join(parts)


def _json(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A value or key somewhere in JSON, of one line where there are several."""
    lines = data.split(b"\n") if b"}\n{" in data else [data]
    row = rng.randrange(len(lines))
    lines[row] = changed_json(lines[row], rng)
    return b"\n".join(lines)


def changed_json(data: bytes, rng: Random) -> bytes:
    """JSON with one value or key changed."""
    if rng.random() < 0.02:
        return rng.choice((b"[" * DEEP, b'{"a":' * DEEP, b"9" * 5000, b"[" * DEEP + b"]" * DEEP))
    root = [json.loads(data)]
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        inside = waiting.pop()
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        places += [(inside, key) for key in keys]
        waiting += [inside[key] for key in keys if isinstance(inside[key], (dict, list))]
    inside, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind <= 3:
        inside[key] = _other_value(inside[key], rng)
    elif kind == 4:
        del inside[key]
    elif kind == 5 and isinstance(inside, dict):
        inside[rng.choice((*TEXTS, f"{key} ", str(key).upper()))] = inside.pop(key)
    elif kind == 6:
        one, other = rng.choice(places), rng.choice(places)
        one[0][one[1]] = json.loads(json.dumps(other[0][other[1]]))
    elif isinstance(inside, list):
        inside.insert(key, _other_value(inside[key], rng))
    else:
        inside[rng.choice(TEXTS)] = rng.choice(VALUES)
    if not root:
        return b""
    return json.dumps(root[0], ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1))).encode(
        "utf-8", "surrogatepass"
    )


def _other_value(value: Any, rng: Random) -> Any:
    if rng.random() < 0.5:
        return rng.choice(VALUES)
    if isinstance(value, bool) or value is None:
        return rng.choice((not value, 0, "x"))
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, -value, value * 1000, float(value), str(value)))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice((value[:at] + rng.choice(TEXTS) + value[at:], value[:at], value.upper(), [value]))
    return rng.choice(([value], {"x": value}, str(value)))


# --- containers -------------------------------------------------------------------------------------------------------


def _tensors(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """The header of a safetensors file, whose length then is right; or a text of JSON inside its metadata."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    metadata = json.loads(header)
    inner = [key for key, value in metadata.get("__metadata__", {}).items() if value[:1] in {"[", "{"}]
    if inner and rng.random() < 0.4:
        key = rng.choice(inner)
        metadata["__metadata__"][key] = changed_json(metadata["__metadata__"][key].encode(), rng).decode(
            errors="replace"
        )
        header = json.dumps(metadata).encode()
    else:
        header = changed_json(header, rng)
    return len(header).to_bytes(8, "little") + header + rest


def _npy(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """The header's text, of the length that it then has, or the numbers."""
    size = int.from_bytes(data[8:10], "little")
    text, rest = data[10 : 10 + size], data[10 + size :]
    if rng.random() < 0.3:
        return data[: 10 + size] + _number(rest, rng)
    kinds = (
        b"'<f8'",
        b"'|O'",
        b"'<c16'",
        b"'<M8[s]'",
        b"'<U9'",
        b"[('a', '<f4')]",
        b"'|V4'",
        b"'<f4'",
        b"'|b1'",
        b"''",
    )
    text = rng.choice(
        (
            re.sub(rb"\(.*?\)", b"(%d, %d)" % (rng.choice(NUMBERS), rng.choice(NUMBERS)), text),
            re.sub(rb"\(.*?\)", rng.choice((b"()", b"(-1,)", b"(1.5, 2)", b"(" * 3000, b"(2, 3, 4, 0)")), text),
            re.sub(rb"'descr': [^,]*", b"'descr': " + rng.choice(kinds), text),
            text.replace(b"False", rng.choice((b"True", b"1", b"None"))),
            _cells(text, others, rng),
        )
    )
    return data[:8] + (len(text) % 65536).to_bytes(2, "little") + text + rest


def _png(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Chunks changed, doubled, moved or removed, with right checksums."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    row, kind = rng.randrange(len(chunks)), rng.randrange(6)
    name, body = chunks[row]
    if kind == 0:
        chunks.insert(rng.randrange(len(chunks)), chunks[row])
    elif kind == 1:
        del chunks[row]
    elif kind == 2:
        rng.shuffle(chunks)
    elif kind == 3:
        chunks[0] = (b"IHDR", _number(chunks[0][1], rng, ((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (12, 1))))
    elif kind == 4 and name == b"IDAT":
        chunks[row] = (name, zlib.compress(_any(zlib.decompress(body), others, rng)))
    else:
        names = (b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"sBIT", b"IEND", b"zTXt")
        chunks[row] = (rng.choice((name, name, rng.choice(names))), _any(body, others, rng))
    return data[:8] + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in chunks
    )


def _jpeg(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Segments before the samples changed, doubled, moved or removed."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in {0xDA, 0x93, 0xD9}:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + 2 + size])
        at += 2 + size
    row, kind = rng.randrange(len(segments)), rng.randrange(5)
    if kind == 0:
        segments.insert(rng.randrange(len(segments)), segments[row])
    elif kind == 1:
        del segments[row]
    elif kind == 2:
        rng.shuffle(segments)
    elif kind == 3:
        segments[row] = _number(segments[row], rng)
    else:
        body = _any(segments[row][4:], others, rng)
        segments[row] = segments[row][:2] + ((len(body) + 2) % 65536).to_bytes(2, "big") + body
    return data[:2] + b"".join(segments) + data[at:]


def _tiff(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """An entry of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    entry = at + 2 + 12 * rng.randrange(count)
    field, size = rng.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 2)))
    value = rng.choice(
        (*NUMBERS, 254, 256, 257, 258, 259, 262, 273, 277, 278, 317, 320, 322, 324, 330, 338, 339, 34665, 5, 6, 32773)
    )
    if rng.random() < 0.5:
        return _number(data, rng, ((entry + field, size),))
    return (
        data[: entry + field]
        + struct.pack(order + ("H" if size == 2 else "I"), value % (1 << 8 * size))
        + data[entry + field + size :]
    )


def _riff(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A chunk of a WebP file, with right sizes."""
    chunks, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    row, kind = rng.randrange(len(chunks)), rng.randrange(4)
    name, body = chunks[row]
    if kind == 0:
        chunks.insert(row, chunks[row])
    elif kind == 1:
        rng.shuffle(chunks)
    elif kind == 2:
        chunks[row] = (rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP")), body)
    else:
        chunks[row] = (name, _any(body[:40], others, rng) + body[40:])
    inside = b"".join(name + len(b).to_bytes(4, "little") + b + bytes(len(b) % 2) for name, b in chunks)
    return b"RIFF" + (len(inside) + 4).to_bytes(4, "little") + b"WEBP" + inside


def _sizes(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A number among the first bytes, where headers are."""
    return _number(data, rng, [(at, size) for at in range(min(len(data) - 4, 200)) for size in (1, 2, 4)])


def _zip_fields(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A field of the table of contents, of a member's own header, or of the end."""
    marks = {b"PK\x01\x02": ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (38, 4), (42, 4))}
    marks[b"PK\x03\x04"] = ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
    marks[b"PK\x05\x06"] = ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2))
    mark = rng.choice(list(marks))
    found = [match.start() for match in re.finditer(re.escape(mark), data)]
    at = rng.choice(found)
    if rng.random() < 0.1 and mark == b"PK\x01\x02":  # two entries of one member
        other = rng.choice(found)
        return data[: at + 42] + data[other + 42 : other + 46] + data[at + 46 :]
    return _number(data, rng, [(at + place, size) for place, size in marks[mark]])


def _zip_members(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """The content of a member, packed again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    row = rng.randrange(len(members))
    info, body = members[row]
    kind = rng.randrange(5)
    if kind == 0:
        del members[row]
    elif kind == 1:
        members.append(members[row])
    else:
        members[row] = (info, _markup(body, rng) if body[:1] == b"<" else damaged(body, (), rng))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for info, body in members:
            kept = zipfile.ZipInfo(info.filename, info.date_time)
            kept.external_attr, kept.compress_type = info.external_attr, info.compress_type
            archive.writestr(kept, body)
    return made.getvalue()


def _markup(data: bytes, rng: Random) -> bytes:
    """XML with a value, text or element changed."""
    parts = re.split(rb"([<>\"= /])", data)
    at = rng.randrange(len(parts))
    odd = rng.choice(TEXTS).encode("utf-8", "replace")
    number = str(rng.choice(NUMBERS)).encode()
    parts[at] = rng.choice((odd, number, b"", parts[at] * 2, rng.choice(parts), b"ZZZ99999999", b"&a;", b"1E400"))
    return b"".join(parts)


def _gzip(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """What is inside, packed again."""
    return gzip.compress(damaged(gzip.decompress(data), (), rng), mtime=0)


def _tar(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A field of a header, with a right checksum."""
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    head = bytearray(data[at : at + 512])
    place, size = rng.choice(((0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    odd = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    kinds = (b"0", b"1", b"2", b"5", b"L", b"K", b"x", b"g", b"S", b"7", b"3")
    octal = b"%011o\0" % (rng.choice(NUMBERS) % (1 << 33))
    values = (odd, octal, b"\x80" + rng.randbytes(11), b"\xff" * 12, rng.choice(kinds), b"a/" * 40, b"-1")
    head[place : place + size] = rng.choice(values)[:size].ljust(size, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + 512 :]


# --- protocol buffers -------------------------------------------------------------------------------------------------


def _protobuf(data: bytes, others: Sequence[bytes], rng: Random, depth: int = 0) -> bytes:
    """A field at any depth changed, doubled or removed; the lengths around it are right."""
    fields = _fields(data)
    row = rng.randrange(len(fields))
    number, kind, value = fields[row]
    way = rng.randrange(6)
    if kind == 2 and depth < 12 and rng.random() < 0.75:
        with contextlib.suppress(Exception):
            value = _protobuf(value, others, rng, depth + 1)
            way = -1
    if way == 0:
        fields.insert(row, fields[row])
        return _joined(fields)
    if way == 1:
        del fields[row]
        return _joined(fields)
    if way == 2:
        number = rng.choice((1, 2, 5, 7, 8, 11, 14, 20, number))
    elif way > 2:
        value = rng.choice(NUMBERS) if kind == 0 else _any(value, others, rng)
        value = value[: {1: 8, 5: 4}[kind]] if kind in {1, 5} else value
    fields[row] = (number, kind, value)
    return _joined(fields)


def _fields(data: bytes) -> list[tuple[int, int, Any]]:
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        if at > len(data) or tag < 8:
            raise ValueError("no protocol buffer")
        found.append((tag >> 3, kind, value))
    return found


def _joined(fields: Sequence[tuple[int, int, Any]]) -> bytes:
    parts = []
    for number, kind, value in fields:
        parts.append(_as_varint(number << 3 | kind))
        parts += [_as_varint(value)] if kind == 0 else [_as_varint(len(value))] * (kind == 2) + [value]
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _as_varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
