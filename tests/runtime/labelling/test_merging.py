"""Outputs of shares put together: the bytes of one whole run, or one line that says what is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.traced import peak_of
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.inputs.item import Item
from zsl_runtime.inputs.share import Share
from zsl_runtime.labelling import merging
from zsl_runtime.labelling.merging import RECORD, merge, read_facts, records_of, write_share
from zsl_runtime.labelling.results import csv_header, encode_csv, encode_jsonl, open_output, open_partial
from zsl_runtime.labelling.snapshot import Labelled, Prediction

OPTIONS = {"--topk": 2, "--format": "csv", "generation": 3}


def answer(name: str) -> Labelled:
    """Made of the name alone: one that begins with x could not be read, and `few` classes need not be two."""
    if name.startswith("x"):
        return Labelled(name, InputError("E-IMAGE-FORMAT", "no picture"))
    few = 1 + len(name) % 2
    return Labelled(name, Prediction(("wren", 'owl,\n"eagle"')[:few], (False, True)[:few], (0.75, 0.25)[:few]))


def write(path, names, share, *, csv=True, options=OPTIONS, units=None, stop=None, resume=False):
    """What zsl-infer writes for one share, two answers a batch; after `stop` batches it is interrupted."""
    encode = encode_csv if csv else encode_jsonl
    given = options if share is None else {**options, "--shard": str(share)}
    with open_partial(str(path), given, resume=resume, share=share) as out:
        out.backend = "ort fp32"
        items = (Item(name, b"") for name in names)
        named = [item.name for item in (items if share is None else share.each(items))][out.state.items :]
        if csv and not out.state.items:
            out.write(csv_header(), [])
        for number, start in enumerate(range(0, len(named), 2)):
            if number == stop:
                return
            batch = [answer(name) for name in named[start : start + 2]]
            if share is None:
                out.write(encode(batch, 0.0), batch)
            else:
                out.write_each([encode([one], 0.0) for one in batch], batch)
        out.complete = True


def merged(paths) -> bytes:
    out = io.BytesIO()
    merge([str(path) for path in paths], out)
    return out.getvalue()


def parts(folder, names, count, **more):
    paths = [folder / f"p{index}.csv" for index in range(count)]
    for index, path in enumerate(paths):
        write(path, names, Share(index, count), **more)
    return paths


NAMES = [*(f"photos/{number}.jpg" for number in range(25)), "x1", "x2", "a,b", "line\nbreak", "ü", "caf\udce9"]


@settings(max_examples=25)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=6), max_size=30),
    st.integers(1, 5),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_merged_are_the_bytes_of_a_whole_run(tmp_path_factory, names, count, csv, random):
    folder = tmp_path_factory.mktemp("merge")
    write(folder / "whole", names, None, csv=csv)
    paths = parts(folder, names, count, csv=csv)
    random.shuffle(paths)
    assert merged(paths) == (folder / "whole").read_bytes()
    shutil.rmtree(folder)


def test_an_interrupted_share_goes_on_and_merges_to_the_same_bytes(tmp_path):
    write(tmp_path / "whole", NAMES, None)
    paths = parts(tmp_path, NAMES, 2)
    for stop in (1, 3):
        paths[0].unlink()
        write(paths[0], NAMES, Share(0, 2), stop=stop)
        with pytest.raises(UsageError, match=r"E-MERGE.*is not finished: there is p0.csv.partial.*--resume"):
            merged(paths)
        write(paths[0], NAMES, Share(0, 2), resume=True)
        assert merged(paths) == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("p0.csv", "p0.csv.share", "p1.csv", "p1.csv.share", "whole")
    ]


def test_what_came_before_the_answers_that_are_there_moves_them(tmp_path):
    """A file that is another share's and comes between two sittings: the places are those of the second one."""
    more = next(name for name in (f"0{number}.jpg" for number in range(50)) if Share(1, 2).holds(name))
    after = [more, *NAMES]
    write(tmp_path / "whole", after, None)
    paths = [tmp_path / "p0.csv", tmp_path / "p1.csv"]
    write(paths[0], NAMES, Share(0, 2), stop=3)
    write(paths[0], after, Share(0, 2), resume=True)
    write(paths[1], after, Share(1, 2))
    assert merged(paths) == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("harm", ["gone", "short", "long lengths"])
def test_lengths_that_are_not_those_of_the_answers_are_not_gone_on_with(tmp_path, harm):
    write(tmp_path / "p", NAMES, Share(0, 1), stop=3)
    lengths = tmp_path / "p.partial.lengths"
    data = lengths.read_bytes()
    assert len(data) == 4 * 6
    lengths.unlink()
    if harm != "gone":
        lengths.write_bytes(data[:-5] if harm == "short" else b"\xff" * len(data))
    with pytest.raises(UsageError, match=r"E-RESUME.*p.partial.lengths' is missing or was changed"):
        write(tmp_path / "p", NAMES, Share(0, 1), resume=True)


def test_what_a_kill_left_behind_the_last_note_is_done_again(tmp_path):
    """Answers and lengths are written before the note of how far they go, so there may be more of them, or a piece."""
    write(tmp_path / "whole", NAMES, None)
    write(tmp_path / "p", NAMES, Share(0, 1), stop=4)
    for name, more in (("p.partial", b"photos/9.jpg,1,wr"), ("p.partial.lengths", b"\x10\0\0\0\x11")):
        with (tmp_path / name).open("ab") as stream:
            stream.write(more)
    write(tmp_path / "p", NAMES, Share(0, 1), resume=True)
    assert merged([tmp_path / "p"]) == (tmp_path / "whole").read_bytes()


def test_more_shares_than_files_may_be_open_at_once(tmp_path, monkeypatch):
    """Of each its output and its records, which are mapped and hold their file open."""
    resource = pytest.importorskip("resource")
    names = [f"{number}.jpg" for number in range(400)]
    write(tmp_path / "whole", names, None)
    paths = parts(tmp_path, names, 60)
    assert all(read_facts(path).items for path in paths)
    held = len(list(Path("/dev/fd").iterdir())) + 20
    monkeypatch.setattr(merging, "FILES_BESIDE", held)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held, before[1]))
        assert merged(paths) == (tmp_path / "whole").read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_read_ahead_of_many_shares_is_bounded(tmp_path, monkeypatch):
    """Not so and so much of each: there may be thousands."""
    names = [f"{number}{'x' * 2000}.jpg" for number in range(800)]
    write(tmp_path / "whole", names, None)
    paths = parts(tmp_path, names, 10)
    whole = (tmp_path / "whole").read_bytes()
    monkeypatch.setattr(merging, "CHUNK", 1 << 17)  # of the one share that is compared
    monkeypatch.setattr(merging, "CHUNKS", 1 << 17)
    assert min(path.stat().st_size for path in paths) > 1 << 17
    ends = hashlib.sha256()

    class Sums(io.RawIOBase):
        def write(self, data: bytes) -> int:
            ends.update(data)
            return len(data)

    _, peak = peak_of(lambda: merge([str(path) for path in paths], Sums()))
    assert peak < 5 << 17, peak
    assert ends.hexdigest() == hashlib.sha256(whole).hexdigest()


def test_nothing_is_left_of_a_share_that_ended_before_its_first_answer(tmp_path):
    write(tmp_path / "p", NAMES, Share(0, 1), stop=0)
    assert list(tmp_path.iterdir()) == []


# --- what is refused ------------------------------------------------------------------------------------------------


def test_one_that_is_missing_or_given_twice(tmp_path):
    paths = parts(tmp_path, NAMES, 8)
    with pytest.raises(UsageError, match=r"E-MERGE: 7 of 8 shares were given; 3/8 is missing$"):
        merged(paths[:3] + paths[4:])
    with pytest.raises(UsageError, match=r"1 of 8 shares were given; 0/8, 1/8, 2/8, 3/8, 4/8 and 2 more are missing$"):
        merged(paths[7:])
    with pytest.raises(UsageError, match=r"E-MERGE.*are both share 2/8; give one of them"):
        merged([*paths, paths[2]])
    with pytest.raises(UsageError, match=r"E-MERGE: there is no file '.*none'"):
        merged([tmp_path / "none"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({**OPTIONS, "--topk": 3}, "--topk was 2 in one and 3 in the other"),
        ({**OPTIONS, "generation": 4}, "generation was 3 in one and 4 in the other"),
        ({**OPTIONS, "bundle": "abc"}, "bundle was None in one and 'abc' in the other"),
    ],
)
def test_shares_of_other_runs(tmp_path, options, told):
    paths = parts(tmp_path, NAMES, 2)
    write(paths[1], NAMES, Share(1, 2), options=options)
    with pytest.raises(UsageError, match=f"E-MERGE.*are not of one run: {told}"):
        merged(paths)


def test_another_number_of_shares(tmp_path):
    paths = parts(tmp_path, NAMES, 2)
    write(paths[1], NAMES, Share(1, 3))
    with pytest.raises(UsageError, match=r"--shard was '0/2' in one and '1/3' in the other"):
        merged(paths)


@pytest.mark.parametrize("change", ["one more", "one less", "renamed", "another order"])
def test_files_that_came_or_went_between_the_tasks(tmp_path, change):
    paths = parts(tmp_path, NAMES, 3)
    names = {
        "one more": [*NAMES, "z"],
        "one less": NAMES[1:],
        "renamed": ["other", *NAMES[1:]],
        "another order": [*NAMES[1:], NAMES[0]],
    }[change]
    write(paths[1], names, Share(1, 3))
    numbers = len(names) if len(names) != len(NAMES) else f"{len(NAMES)} things to label of other names"
    with pytest.raises(UsageError, match=rf"share 1/3 saw {numbers}.* where 2 of 3 shares saw 31.*again.*p1.csv'$"):
        merged(paths)


def test_an_output_that_was_changed_or_has_nothing_beside_it(tmp_path):
    paths = parts(tmp_path, NAMES, 2)
    data = paths[0].read_bytes()
    for changed in (data + b"more", data[:-1], data.replace(b"wren", b"owls", 1), b""):
        paths[0].write_bytes(changed)
        with pytest.raises(UsageError, match=r"E-MERGE.*p0.csv' is not as it was written"):
            merged(paths)
    paths[0].write_bytes(data)
    (tmp_path / "p0.csv.share").unlink()
    with pytest.raises(UsageError, match=r"E-MERGE.*has no p0.csv.share beside it"):
        merged(paths)


def test_records_that_say_something_else(tmp_path):
    """Not by accident, for they have a sha256: whoever wrote them did it again."""
    paths = parts(tmp_path, NAMES, 2)
    facts = read_facts(str(paths[0]))
    records = np.frombuffer((tmp_path / "p0.csv.share").read_bytes().partition(b"\n")[2], RECORD)
    other = np.frombuffer((tmp_path / "p1.csv.share").read_bytes().partition(b"\n")[2], RECORD)
    taken = records.copy()
    at = next(at for at in range(1, len(records)) if records["unit"][at] > records["unit"][at - 1] + 1)
    taken["unit"][at] = records["unit"][at] - 1  # the other share's, and in order
    assert taken["unit"][at] in other["unit"]
    beyond = records.copy()
    beyond["unit"][-1] = len(NAMES)
    longer = records.copy()
    longer["bytes"][0] += 1
    for wrong, told in (
        (records[::-1], "in no order"),
        (beyond, "in no order"),
        (taken, "both hold number"),
        (longer, "are not those of the file"),
    ):
        write_share(paths[0], facts, wrong)
        with pytest.raises(UsageError, match=f"E-MERGE.*({told})"):
            merged(paths)
    write_share(paths[0], replace(facts, own=facts.own - 1), records)
    with pytest.raises(UsageError, match=r"E-MERGE: the shares hold 30 things to label of 31 in all"):
        merged(paths)


@pytest.fixture(scope="module")
def two_shares(tmp_path_factory):
    """Two outputs that nothing but one test changes, with what lies beside the first and the merged bytes."""
    paths = parts(tmp_path_factory.mktemp("damaged"), NAMES, 2)
    return paths, paths[0].with_name("p0.csv.share"), paths[0].with_name("p0.csv.share").read_bytes(), merged(paths)


def outcome(paths) -> bytes | str:
    """What was merged, or the code of the one line that says why not."""
    try:
        return merged(paths)
    except UsageError as error:
        return error.code if "\n" not in str(error) else "lines"


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_file_beside_an_output_is_one_line(two_shares, data):
    paths, beside, right, whole = two_shares
    wrong = bytearray(right)
    kind = data.draw(st.sampled_from(["bytes", "cut", "value"]))
    if kind == "bytes":
        for _ in range(data.draw(st.integers(1, 4))):
            wrong[data.draw(st.integers(0, len(wrong) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del wrong[data.draw(st.integers(0, len(wrong) - 1)) :]
    else:
        line, _, rest = right.partition(b"\n")
        content = json.loads(line)
        values = st.sampled_from([None, -1, 0, 1 << 62, "x", [], {}, True, 1.5])
        content[data.draw(st.sampled_from(sorted(content)))] = data.draw(values)
        wrong = json.dumps(content).encode() + b"\n" + rest
    beside.write_bytes(wrong)
    assert outcome(paths) in {whole, "E-MERGE"}  # the first where what was changed is the name of a backend


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_beside_an_output(tmp_path, what):
    paths = parts(tmp_path, NAMES, 1)
    beside = tmp_path / "p0.csv.share"
    moved = beside.rename(tmp_path / "moved")
    if what == "link":
        beside.symlink_to(moved)
    elif what == "pipe":
        os.mkfifo(beside)
    else:
        beside.mkdir()
    with pytest.raises(UsageError, match=r"E-MERGE.*p0.csv.share' is not as zsl-infer --shard wrote it"):
        merged(paths)


def test_nothing_is_written_of_a_merge_that_is_refused(tmp_path):
    paths = parts(tmp_path, NAMES, 2)
    paths[1].write_bytes(paths[1].read_bytes() + b"!")
    out = tmp_path / "labels.csv"
    out.write_text("before")
    with pytest.raises(UsageError), open_output(str(out)) as stream:
        merge([str(path) for path in paths], stream)
    assert out.read_text() == "before"
    stream = io.BytesIO()
    with pytest.raises(UsageError):
        merge([str(path) for path in paths], stream)
    assert stream.getvalue() == b""


def test_shares_that_two_backends_labelled_are_noted(tmp_path):
    paths = parts(tmp_path, NAMES, 2)
    records = np.frombuffer((tmp_path / "p0.csv.share").read_bytes().partition(b"\n")[2], RECORD)
    write_share(paths[0], replace(read_facts(str(paths[0])), backend="openvino fp32"), records)
    done = merge([str(path) for path in paths], io.BytesIO())
    assert (done.shares, done.items, done.unreadable) == (2, 31, 2)
    assert done.notes == ("note: the shares were labelled by openvino fp32, ort fp32, which differ by rounding",)


def test_answers_that_are_cut_elsewhere(tmp_path):
    """The lengths are those of the file when added up, and no answer is whole."""
    paths = parts(tmp_path, NAMES, 2)
    records = np.frombuffer((tmp_path / "p0.csv.share").read_bytes().partition(b"\n")[2], RECORD).copy()
    first, second = np.flatnonzero(records["bytes"] > 9)[:2]
    records["bytes"][first] += 5
    records["bytes"][second] -= 5
    write_share(paths[0], read_facts(str(paths[0])), records)
    with pytest.raises(UsageError, match=r"E-MERGE.*p0.csv.share' is not as zsl-infer --shard wrote it"):
        merged(paths)


def test_what_a_file_beside_an_output_says_forges_no_line_and_fills_no_screen(tmp_path):
    paths = parts(tmp_path, NAMES, 2)
    records = np.frombuffer((tmp_path / "p0.csv.share").read_bytes().partition(b"\n")[2], RECORD)
    facts = read_facts(str(paths[0]))
    write_share(paths[0], replace(facts, backend="ort\nmerged 9 shares\x1b[2J\u202e"), records)
    (note,) = merge([str(path) for path in paths], io.BytesIO()).notes
    assert note.isprintable()
    assert r"'ort\nmerged 9 shares\x1b[2J\u202e'" in note
    write_share(paths[0], replace(facts, options={"\n\x1b" + "x" * 5000: "y" * 5000}), records)
    with pytest.raises(UsageError, match=r"E-MERGE.*are not of one run") as found:
        merged(paths)
    assert found.value.message.isprintable()
    assert len(found.value.message) < 1000


def test_records_are_12_bytes_an_answer():
    assert records_of([0, 7], [34, 5]).tobytes() == bytes([*[0] * 8, 34, 0, 0, 0, 7, *[0] * 7, 5, 0, 0, 0])
