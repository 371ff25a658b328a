"""The bound on what decoding takes: shared by threads, first come first served, and refused above it in one line."""

from __future__ import annotations

import io
import threading
import time

import pytest
from PIL import Image

from support.forked import allow_fork, forked
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.machine.memory import memory_bytes
from zsl_runtime.pixels import PixelSpec, decode, prepare
from zsl_runtime.pixels import room as rooms
from zsl_runtime.pixels.room import MIB, Place, Room, bound, place, shared_room

SPEC = PixelSpec(16, 16)


def png(side: int, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (side, side), 7 if mode in ("L", "P") else (7,) * len(mode)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@pytest.fixture
def small_room(monkeypatch):
    """12 MiB: one picture of a megapixel at a time."""
    monkeypatch.setattr(rooms, "_room", Room(12 * MIB))
    return rooms.shared_room()


def test_threads_never_take_more_than_there_is_and_all_are_served(small_room, monkeypatch):
    most, lock, now = 0, threading.Lock(), 0
    real_take, real_back = Room.take, Room.give_back

    def take(self, size):
        nonlocal most, now
        real_take(self, size)
        with lock:
            now += size
            most = max(most, now)

    def give_back(self, size):
        nonlocal now
        with lock:
            now -= size
        real_back(self, size)

    monkeypatch.setattr(Room, "take", take)
    monkeypatch.setattr(Room, "give_back", give_back)
    big, little = png(1100, "RGBA"), png(100)
    done = []

    def work(number):
        for source in (big, little, big) if number % 2 else (little, big, little):
            shape = prepare(source, SPEC).shape
            done.append(shape)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 24
    assert 6_000_000 < most <= small_room.size
    assert (now, small_room._taken, len(small_room._line)) == (0, 0, 0)


def test_who_comes_first_is_served_first(small_room):
    """A large picture waits for what is there, and small ones that come later wait behind it."""
    order = []
    small_room.take(6 * MIB)
    takers = []

    def take(name, size):
        small_room.take(size)
        order.append(name)
        small_room.give_back(size)

    for name, size in (("large", 8 * MIB), ("small", 5 * MIB)):  # too much together, and the small one fits now
        takers.append(threading.Thread(target=take, args=(name, size), daemon=True))
        takers[-1].start()
        while len(small_room._line) < len(takers):
            time.sleep(0.001)
    assert order == []
    small_room.give_back(6 * MIB)
    for taker in takers:
        taker.join()
    assert order == ["large", "small"]


@pytest.mark.parametrize("wrong", [b"\x89PNG\r\n\x1a\n", png(300)[:-400], None])
def test_room_is_given_back_whatever_happens(small_room, wrong):
    with pytest.raises(InputError):
        decode(png(2000, "RGBA") if wrong is None else wrong)
    assert small_room._taken == 0
    decode(png(10))
    assert small_room._taken == 0


def test_a_picture_that_alone_is_too_much_is_refused_in_one_line(small_room, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(1500, "RGBA"))
    with pytest.raises(InputError) as caught:
        decode(path)
    assert str(caught.value) == (
        f"E-IMAGE-HUGE: {str(path)!r}, 1500 x 1500 pixels, takes 18 MiB to decode, and 12 MiB are allowed "
        "(ZSL_DECODE_MIB); make it smaller first, or allow more"
    )
    with pytest.raises(InputError, match="E-IMAGE-HUGE: PIL image of mode RGBA, 1500 x 1500 pixels, takes"):
        decode(Image.new("RGBA", (1500, 1500)))


def test_a_file_that_is_read_as_a_whole_counts_before_it_is_opened(small_room, tmp_path):
    path = tmp_path / "long.jpg"
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    with path.open("wb") as file:
        file.write(stream.getvalue())
        file.truncate(20 * MIB)
    with pytest.raises(InputError, match=r"E-IMAGE-HUGE: .* takes 20 MiB to decode"):
        decode(path)


def test_the_room_lasts_until_the_square_is_made(small_room, monkeypatch):
    from zsl_runtime.pixels import pixels  # the module behind the package's names

    taken = []
    real = pixels.resize_crop
    monkeypatch.setattr(pixels, "resize_crop", lambda *given: (taken.append(small_room._taken), real(*given))[1])
    prepare(png(500), SPEC)
    assert taken[0] > 3 * 500 * 500
    assert small_room._taken == 0


def test_a_place_holds_one_thing_at_a_time(small_room):
    one = Place(small_room)
    one.take(9 * MIB, "it")
    one.take(8 * MIB, "it")  # not beside what it held
    assert small_room._taken == 8 * MIB
    one.leave()
    one.leave()
    assert small_room._taken == 0


@allow_fork
def test_a_forked_child_has_a_room_of_its_own():
    """Another thread of the parent held it all when the child was made."""
    whole = shared_room()
    with place() as one:
        one.take(whole.size, "all")
        assert forked(lambda: decode(png(10)).shape[0]).code == 10


@pytest.mark.parametrize(
    ("memory", "allowed"),
    [(None, 1 << 30), (64 << 30, 2 << 30), (16 << 30, 1 << 30), (1 << 30, 1 << 29), (1, MIB)],
)
def test_the_bound_follows_the_memory(monkeypatch, memory, allowed):
    monkeypatch.delenv("ZSL_DECODE_MIB", raising=False)
    monkeypatch.setattr(rooms, "memory_bytes", lambda: memory)
    assert bound() == allowed


def test_the_environment_says_another_bound_or_is_refused(monkeypatch):
    monkeypatch.setenv("ZSL_DECODE_MIB", " 300 ")
    assert bound() == 300 * MIB
    for wrong in ("0", "-1", "1e3", "x", "9" * 400, "\u0663"):
        monkeypatch.setenv("ZSL_DECODE_MIB", wrong)
        with pytest.raises(UsageError, match="E-DECODE-MEMORY"):
            bound()


def test_a_limit_of_the_shell_is_memory_too(monkeypatch):
    import resource  # not on every system

    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 << 20, -1))
    assert memory_bytes() == 3 << 20
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
    assert memory_bytes() > 3 << 20
