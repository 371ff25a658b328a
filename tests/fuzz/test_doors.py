"""Every door takes or refuses whatever it is given: the corpus, what once broke it, and inputs changed at random."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.doors import CORPUS, DOORS, Finding, check_lines
from fuzz.mutate import DEEP, LARGEST, damaged
from fuzz.run import Shared, fuzz
from zsl_runtime.errors import UsageError

# These load torch, or start and end a whole command; `make test-slow` has them, too.
DEAR = {
    "triton",
    "recipe",
    "trials",
    "run",
    "checkpoint",
    "weights",
    "command-line",
    "graph-openvino",
    "opened",
    "graph-ort",
}
CHEAP = [name for name in DOORS if name not in DEAR]
A_FEW = 4  # inputs changed at random, of each file of a corpus


def corpus_of(name: str) -> list[bytes]:
    return [path.read_bytes() for path in DOORS[name].corpus]


def test_every_door_has_a_corpus_of_small_files_and_every_corpus_a_door():
    assert {path.name for path in CORPUS.iterdir()} == set(DOORS)
    for door in DOORS.values():
        assert any(path.name.startswith("seed-") for path in door.corpus), door.name
        assert [path.name for path in door.corpus if path.stat().st_size > LARGEST] == []


@pytest.mark.parametrize("name", CHEAP)
def test_the_corpus_and_old_crashers_are_taken_or_refused_and_so_is_what_is_changed_in_them(name):
    door, random_ = DOORS[name], random.Random(name)
    corpus = corpus_of(name)
    taken = [door.try_one(data) for data in corpus]
    assert any(taken), "a reader that refuses all that is whole tests nothing"
    for data in corpus:
        for _ in range(A_FEW):
            door.try_one(damaged(data, corpus, random_))


@pytest.mark.slow
@pytest.mark.parametrize("name", DEAR)
def test_so_it_is_of_doors_with_a_whole_library_or_command_behind_them(name):
    test_the_corpus_and_old_crashers_are_taken_or_refused_and_so_is_what_is_changed_in_them(name)


@pytest.mark.parametrize("name", ["current", "claim", "graph", "npy", "zip", "classes", "picture-ppm"])
@settings(max_examples=15)
@given(data=st.binary(max_size=300), start=st.integers(0, 40))
def test_any_bytes_are_taken_or_refused_alone_or_behind_a_whole_beginning(name, data, start):
    DOORS[name].try_one(data)
    DOORS[name].try_one(corpus_of(name)[0][:start] + data)


@settings(max_examples=60)
@given(text=st.text(max_size=60), code=st.sampled_from(["E-CSV", "E-X"]))
def test_no_text_in_a_message_can_forge_a_line_or_move_a_terminal(text, code):
    error = str(UsageError(code, f"class {text} is given"))
    check_lines(f"error: {error}")
    assert "\n" not in error
    assert error.startswith(f"{code}: class ")


@settings(max_examples=40)
@given(name=st.text(max_size=30), attribute=st.text(max_size=30))
def test_names_of_a_table_are_told_in_lines_that_are_ours(name, attribute):
    text = f'name,"{attribute}",split\n"{name}",1,unseen\n"{name}",x,seen\n'
    for door in ("classes", "training-classes"):
        DOORS[door].try_one(text.encode("utf-8", "surrogatepass"))


def test_lines_that_are_not_ours_are_found():
    for text in ("a\x1b[2J", "a\u202eb", "a\x9bm", "one\nerror: E-FORGED: x", "a\u2028b"):
        with pytest.raises(Finding):
            check_lines(text)
    check_lines("error: E-X: größe \U0001f600\nwarning: more")


@pytest.mark.parametrize("name", sorted(DOORS))
def test_the_mutator_makes_many_inputs_of_bounded_size_and_the_same_ones_of_the_same_seed(name):
    corpus = corpus_of(name)

    def thirty(random_):
        return [damaged(corpus[0], corpus, random_) for _ in range(30)]

    random_ = random.Random(3)
    made = thirty(random_)
    assert len({*made}) > 15
    assert max(map(len, made)) <= LARGEST
    assert thirty(random_) != made == thirty(random.Random(3))


def test_nested_is_deeper_than_any_parser_follows():
    assert sys.getrecursionlimit() < DEEP


def test_what_breaks_a_child_is_found_counted_and_kept(tmp_path):
    """Four doors that do what none may: they end the process, never return, take memory, raise a bug."""
    code = f"""
import sys; sys.path.insert(0, {str(CORPUS.parents[1])!r})
import ctypes, pathlib
from fuzz import doors, run
doors.CORPUS = run.CORPUS = pathlib.Path({str(tmp_path / "corpus")!r})
doors.DOORS.clear()
hold = []
ways = {{
    "crash": lambda data: ctypes.string_at(0),
    "hang": lambda data: all(True for _ in iter(int, 1)),  # ever busy, in no memory
    "memory": lambda data: hold.append(b"x" * (200 << 20)),
    "bug": lambda data: {{}}[data],
    "fine": lambda data: None,
}}
for name, way in ways.items():
    way = (lambda way: lambda data: way(data) if data != b"whole" else None)(way)
    doors.DOORS[name] = doors.Door(name, way, mebibytes=50, seconds=1 if name == "hang" else 60)
    (doors.CORPUS / name).mkdir(parents=True, exist_ok=True)
    (doors.CORPUS / name / "seed-one").write_bytes(b"whole")
"""
    script = tmp_path / "run.py"
    script.write_text(f"{code}run.__file__ = __file__\nsys.exit(run.main())\n", encoding="utf-8")
    out = tmp_path / "figures.json"
    words = [sys.executable, str(script), "--inputs", "3", "--seed", "1", "--out", str(out)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=500)
    assert ended.returncode == 1, ended.stderr
    said = {name: of["changed"] for name, of in json.loads(out.read_text(encoding="utf-8"))["doors"].items()}
    kinds = ("crash", "hang", "memory", "bug")
    assert {name: {kind for kind in kinds if of[kind]} for name, of in said.items()} == {
        **{kind: {kind} for kind in kinds},
        "fine": set(),
    }
    assert said["fine"]["taken"] == said["fine"]["inputs"] == 3
    assert said["memory"]["inputs"] == 3
    assert [len(list((tmp_path / "corpus" / kind).glob("found-*"))) for kind in kinds] == [1, 1, 1, 1]
    assert list((tmp_path / "corpus" / "fine").glob("found-*")) == []


def test_what_a_child_imports_first_is_not_of_its_time(tmp_path):
    """Else a door that loads much was tried with nothing, where each has a few seconds."""
    assert fuzz(DOORS["claim"], 100, 0.001, 1, tmp_path)["inputs"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_a_thousand_inputs_in_a_child_of_bounded_memory_and_time(name, tmp_path):
    said = fuzz(DOORS[name], 1000, 300, 5, tmp_path)
    assert (said["crash"], said["hang"], said["memory"], said["bug"]) == (0, 0, 0, 0)
    assert said["inputs"] == 1000


def test_a_table_of_another_process_is_read_while_it_is_written(tmp_path):
    one, other = (Shared(tmp_path / "x") for _ in range(2))
    one.set_data(b"abc")
    one.write(5, 3, 2, 77, 3)
    assert other.read() == (5, 3, 2, 77, 3)
    assert other.data == b"abc"
