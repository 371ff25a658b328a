"""Protocol buffers, read without their library, in bounded time and memory: fields by number, nothing merged.

A message is a sequence of fields, each a number, a kind and a value of known length. Their own parsers are generous: of
a field that is written twice the last value counts, or the two are merged; what they do not know they keep. Two readers
of one file may then see two models. Here a file says everything once, and nothing that is not asked for.
(https://protobuf.dev/programming-guides/encoding)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields; 3 and 4 are groups, which ONNX does not have
MOST_FIELDS = 400_000  # of one file; ours have some 20,000
LONGEST_VARINT = 10
LARGEST_NUMBER = (1 << 29) - 1  # of a field


class Field(NamedTuple):
    """What a message may hold under one number.

    Attributes:
        name: under which its value is given.
        kind: VARINT, BYTES or FIXED32.
        many: any number of values, in order; numbers also packed.
        skipped: it is stepped over, and may come any number of times.

    """

    name: str
    kind: int
    many: bool = False
    skipped: bool = False


class Reader:
    """Reads the messages of one file; `left` counts down the fields that it may still have."""

    def __init__(self, most: int = MOST_FIELDS) -> None:
        self.most = self.left = most

    def message(self, data: memoryview, known: Mapping[int, Field | str]) -> dict[str, Any]:
        """The values of a message by name: a number, bytes as they lie in the file, or a list of these.

        Numbers that are packed come as bytes in the list, in one piece.

        Args:
            data: the message.
            known: number -> what may be there; or why it may not, in words.

        Raises:
            ValueError: what is wrong, in words.

        """
        found: dict[str, Any] = {}
        at, end = 0, len(data)
        while at < end:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"it has more than {self.most:,} fields")
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = varint(data, at - 1)
            number, kind = tag >> 3, tag & 7
            value: Any
            if kind == BYTES:
                length = data[at] if at < end else -1
                start = at + 1
                if not 0 <= length < 0x80:
                    length, start = varint(data, at)
                at = start + length
                value = data[start:at]
            elif kind == VARINT:
                value, at = varint(data, at)
            elif kind in {FIXED32, FIXED64}:
                start, at = at, at + (4 if kind == FIXED32 else 8)
                value = data[start:at]
            else:
                raise ValueError(f"a field of unknown kind {kind}")
            if at > end:
                raise ValueError("it is cut off")
            field = known.get(number)
            if field is None:
                raise ValueError(f"it has a field {min(number, LARGEST_NUMBER + 1)} that none of ours has")
            if isinstance(field, str):
                raise ValueError(field)  # noqa: TRY004  # of the file, not of an argument
            if kind != field.kind and not (field.many and kind == BYTES):
                raise ValueError(f"field {field.name} is of another kind")
            if field.skipped:
                continue
            if field.many:
                found.setdefault(field.name, []).append(value)
            elif field.name in found:
                raise ValueError(f"field {field.name} is there twice")
            else:
                found[field.name] = value
        return found


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of up to 64 bits at `at`, and where it ends; ValueError."""
    value = shift = 0
    for place in range(at, min(at + LONGEST_VARINT, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise ValueError("a whole number of more than 64 bits")
            return value, place + 1
        shift += 7
    raise ValueError("it is cut off")


def signed(value: int) -> int:
    """A varint as the signed number that ONNX means by it."""
    return value - (1 << 64) if value >> 63 else value


def whole_numbers(values: list[Any], most: int, what: str) -> tuple[int, ...]:
    """The numbers of a repeated field, packed or not; ValueError where they are more than `most`."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(signed(value))
        else:
            at = 0
            while at < len(value) and len(found) <= most:
                number, at = varint(value, at)
                found.append(signed(number))
        if len(found) > most:
            raise ValueError(f"{what} has more than {most} numbers")
    return tuple(found)


def text(value: memoryview, longest: int = 512) -> str:
    """A name; ValueError where it is too long, no UTF-8, or holds what cannot be printed."""
    if len(value) > longest:
        raise ValueError(f"a name of {len(value):,} bytes, where {longest} are the most")
    try:
        name = str(value, "utf-8")
    except UnicodeDecodeError:
        raise ValueError("a name is not UTF-8") from None
    if not name.isprintable():  # a byte 0 ends a name for some
        raise ValueError(f"a name that cannot be printed, {name[:80]!r}")
    return name
