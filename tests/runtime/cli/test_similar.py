"""`zsl-classes similar` as a user types it: the three formats, what goes to stderr, and that nothing is changed."""

from __future__ import annotations

import csv
import io
import json

import pytest

from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.newcomers import MOST_TOLD
from zsl_runtime.classes.similar import similar_classes
from zsl_runtime.cli.classes import main
from zsl_runtime.cli.similar import COLUMNS
from zsl_runtime.head.class_file import read_class_csv

HEADER = ",".join(("name", *ATTRIBUTES))
NEW = f"{HEADER}\nheron,0,7,1,1,7,1\ntwin,6,6,0,0,1,1\n"


@pytest.fixture
def means(shared_bundle) -> str:
    """A bundle in which every class is a mean."""
    return str(shared_bundle(rule="gaussian"))


@pytest.fixture
def file(tmp_path):
    def written(text: str = NEW) -> str:
        (tmp_path / "new.csv").write_text(text, encoding="utf-8")
        return str(tmp_path / "new.csv")

    return written


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(["similar", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def found_in(engine: str, path: str):
    bundle = Bundle.open(engine)
    return similar_classes(bundle, read_class_csv(path, attributes=bundle.attributes, need_split=False))


def test_the_table_has_the_neighbours_below_each_class_and_advice_at_the_end(capsys, means, file):
    code, out, err = run(capsys, "--engine", means, "--attributes", file())
    found = found_in(means, file())
    assert code == 0
    header, *lines, last = out.splitlines()
    assert header.split() == ["distance", "lost", "taken", "class"]
    assert last == "before you add them: give 'twin' attributes of their own"
    wanted = []
    for name, other in (("heron", "twin"), ("twin", "heron")):
        wanted.append([name])
        (new,) = found.newcomers[name]
        near = found.neighbours[name]
        assert other not in {one.name for one in near}  # so it comes behind them
        for one in (*near, new):
            kind = ["(new)"] if one is new else []
            wanted.append([f"{one.distance:.1f}", f"{one.lost:.0%}", f"{one.taken:.0%}", *one.name.split(), *kind])
    assert [line.split() for line in lines] == wanted
    assert {line.index(line.split("%  ")[-1].lstrip()) for line in lines if "%" in line} == {header.index("class") + 2}
    assert err.splitlines() == [f"warning: {note}" for note in found.notes]
    assert len(found.notes) == 2


def test_csv_has_rows_for_programs_and_the_advice_goes_to_stderr(capsys, means, file):
    code, out, err = run(capsys, "--engine", means, "--attributes", file(), "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == COLUMNS
    found = found_in(means, file())
    for name in ("heron", "twin"):
        mine = [row for row in rows if row["name"] == name]
        assert [row["neighbour"] for row in mine[:3]] == [one.name for one in found.neighbours[name]]
        for row, one in zip(mine, found.neighbours[name], strict=False):
            assert (float(row["distance"]), float(row["lost"]), float(row["taken"])) == one[1:]
            assert row["cosine"] == ""
    assert {row["neighbour"]: row["split"] for row in rows}.items() >= {"wren": "unseen", "twin": "new"}.items()
    assert err.splitlines()[0] == found.advice


def test_json_is_one_object_with_everything(capsys, means, file):
    code, out, _ = run(capsys, "--engine", means, "--attributes", file(), "--format", "json")
    assert code == 0
    told, found = json.loads(out), found_in(means, file())
    assert list(told) == ["expected", "classes", "notes", "advice"]
    assert (told["expected"], told["notes"], told["advice"]) == (True, list(found.notes), found.advice)
    assert [one["name"] for one in told["classes"]] == ["heron", "twin"]
    for one in told["classes"]:
        for key, near in (("neighbours", found.neighbours), ("newcomers", found.newcomers)):
            values = [(row["neighbour"], row["distance"], row["lost"], row["taken"]) for row in one[key]]
            assert values == list(near[one["name"]])
    assert {row["split"] for one in told["classes"] for row in one["newcomers"]} == {"new"}


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_of_other_heads_it_says_that_mix_ups_are_not_known(capsys, shared_bundle, file, rule):
    engine = str(shared_bundle(rule=rule))
    code, out, _ = run(capsys, "--engine", engine, "--attributes", file())
    assert code == 0
    header, name, first, *_, unknown, advice = out.splitlines()
    assert (header.split(), name.strip()) == (["cosine", "class"], "heron")
    assert float(first.split()[0]) == pytest.approx(found_in(engine, file()).neighbours["heron"][0].cosine, abs=0.005)
    assert unknown.startswith("expected mix-ups are known only for bundles with the Gaussian head")
    assert advice.startswith("before you add them")
    _, out, err = run(capsys, "--engine", engine, "--attributes", file(), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {(row["distance"], row["lost"], row["taken"]) for row in rows} == {("", "", "")}
    assert float(next(row["cosine"] for row in rows if (row["name"], row["neighbour"]) == ("twin", "wren"))) == (
        pytest.approx(1)
    )
    assert err.splitlines()[0] == unknown
    _, out, _ = run(capsys, "--engine", engine, "--attributes", file(), "--format", "json")
    assert json.loads(out)["expected"] is False


def test_beyond_so_many_the_rest_is_counted(capsys, means, file):
    lines = [f"c{j},{j % 9},{j % 7},{j % 5},1,{j},1" for j in range(MOST_TOLD + 30)]
    code, out, _ = run(capsys, "--engine", means, "--attributes", file("\n".join([HEADER, *lines])))
    assert code == 0
    assert out.splitlines()[-2] == f"and 30 more: worked out for the first {MOST_TOLD} alone"


@pytest.mark.parametrize(
    ("text", "code"), [(f"{HEADER}\nwren,1,1,1,1,1,1\n", "E-CLASS-EXISTS"), (f"{HEADER}\n", "E-CLASSES-EMPTY")]
)
def test_what_could_not_be_added_is_one_line(capsys, means, file, text, code):
    got, out, err = run(capsys, "--engine", means, "--attributes", file(text))
    assert (got, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: {code}: ")


def test_the_file_is_needed(capsys, means):
    got, out, err = run(capsys, "--engine", means)
    assert (got, out) == (2, "")
    assert "--attributes" in err
