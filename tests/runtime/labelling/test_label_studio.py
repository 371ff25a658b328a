"""Tasks for Label Studio: valid JSON whatever names are, URLs that lead to pictures, a configuration that fits them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.labelling.label_studio import LabelStudioMaker, configuration, in_archive, url_of
from zsl_runtime.labelling.made import MadeSink, MergedLines, Origin, making

ORIGIN = Origin("birds.bundle", "0123456789abcdef" * 4, 3, "0.1.0")
# As far as a disk takes them; other bytes than those of UTF-8 are surrogates.
NAMES = st.binary(min_size=1, max_size=30).map(
    lambda raw: os.fsdecode(raw.replace(b"/", b"").replace(b"\0", b"") or b"x")
)
CLASSES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20)


def labelled(path: str, *names: str, **more) -> dict:
    rows = [{"rank": n, "class": name, "split": "seen", "probability": 0.6 / n} for n, name in enumerate(names, 1)]
    return {"path": path, "predictions": rows, **more}


def tasks(answers, **options) -> tuple[list, list[str]]:
    """The tasks of some answers, and what was told."""
    stream, told = io.BytesIO(), []
    maker = LabelStudioMaker(
        stream, ORIGIN, **{"prefix": "/data/local-files/?d=", "root": "/"} | options, tell=told.append
    )
    for one in answers:  # in several portions
        maker.add([one])
    maker.finish()
    return json.loads(stream.getvalue()), told


def test_a_task_has_the_picture_the_best_class_and_what_else_is_likely():
    (task,), told = tasks([labelled("/birds/a b.jpg", "Owl", "Crow")])
    assert task == {
        "data": {
            "image": "/data/local-files/?d=birds/a%20b.jpg",
            "path": "/birds/a b.jpg",
            "candidates": "Owl 0.60, Crow 0.30",
        },
        "predictions": [
            {
                "model_version": "birds.bundle 0123456789ab generation 3",
                "score": 0.6,
                "result": [
                    {
                        "id": hashlib.sha256(b"/birds/a b.jpg").hexdigest()[:10],  # another one for every picture
                        "type": "choices",
                        "from_name": "choice",
                        "to_name": "image",
                        "value": {"choices": ["Owl"]},
                    }
                ],
            }
        ],
    }
    assert told == []


def test_a_far_picture_says_so_and_one_without_a_class_has_no_prediction():
    found, _ = tasks(
        [
            labelled("/a.jpg", "Owl", far=True, distance=12.34),
            labelled("/b.jpg"),
            labelled("/c.jpg", "Owl", far=False, distance=1.0),
        ]
    )
    assert found[0]["data"]["candidates"] == (
        "Owl 0.60 (unlike anything known: 12.3 standard deviations from the nearest class)"
    )
    assert found[1]["predictions"] == []
    assert found[2]["data"]["candidates"] == "Owl 0.60"


def test_pictures_that_cannot_be_read_are_no_tasks():
    error = {"path": "/b.jpg", "error": {"code": "E-IMAGE-FORMAT", "message": "no picture"}}
    assert [one["data"]["path"] for one in tasks([error, labelled("/a.jpg", "Owl"), error])[0]] == ["/a.jpg"]
    assert tasks([error]) == ([], [])
    assert tasks([]) == ([], [])


def test_members_of_archives_are_told_and_left_out(tmp_path):
    folder = tmp_path / "shots.zip"  # called like one
    folder.mkdir()
    answers = [
        labelled("set.tar.gz/x/a.jpg", "Owl"),
        labelled(f"{folder}/a.jpg", "Owl"),
        labelled("s.ZIP/a.jpg", "Owl"),
    ]
    found, told = tasks(answers)
    assert [one["data"]["path"] for one in found] == [f"{folder}/a.jpg"]
    assert told == ["no tasks for 2 pictures in zip or tar files: extract them, and label the files"]
    assert not in_archive("a.zip")


def test_pictures_outside_of_what_is_served_are_told_and_left_out(tmp_path):
    found, told = tasks(
        [labelled(f"{tmp_path}/in/a.jpg", "Owl"), labelled(f"{tmp_path}/b.jpg", "Owl")], root=str(tmp_path / "in")
    )
    assert [one["data"]["image"] for one in found] == ["/data/local-files/?d=a.jpg"]
    assert told == [f"no tasks for 1 pictures that do not lie in {str(tmp_path / 'in')!r}"]


def test_urls(tmp_path, monkeypatch):
    (tmp_path / "real" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    assert url_of("x/a.jpg", "http://host/", str(tmp_path)) == "http://host/real/x/a.jpg"
    assert url_of("x/../a+b&c?.jpg", "", str(tmp_path)) == "real/a%2Bb%26c%3F.jpg"
    # A link counts as it is called, and where that is no way, by where it leads.
    assert url_of(str(tmp_path / "link" / "a.jpg"), "", str(tmp_path)) == "link/a.jpg"
    assert url_of(str(tmp_path / "link" / "a.jpg"), "", str(tmp_path / "real")) == "a.jpg"
    assert url_of(str(tmp_path / "..." / "a.jpg"), "", str(tmp_path)) == ".../a.jpg"
    assert url_of("s3://bucket/a b.jpg", "/data/", "/") == "s3://bucket/a b.jpg"
    assert url_of("/elsewhere/a.jpg", "", str(tmp_path)) is None


@given(st.lists(st.tuples(NAMES, CLASSES), max_size=5))
def test_whatever_names_are_the_file_is_valid_and_leads_to_the_pictures(pairs):
    found, _ = tasks([labelled(f"/photos/{path}/a.jpg", name) for path, name in pairs])
    assert [one["predictions"][0]["result"][0]["value"]["choices"] for one in found] == [[name] for _, name in pairs]
    for one, (path, _) in zip(found, pairs, strict=True):
        url = one["data"]["image"]
        assert url.isascii()
        expected = os.path.normpath(os.fsencode(f"/photos/{path}/a.jpg"))
        assert b"/" + unquote_to_bytes(url.removeprefix("/data/local-files/?d=")) == expected
        assert os.fsencode(one["data"]["path"]) == os.fsencode(f"/photos/{path}/a.jpg")


@given(st.lists(CLASSES, unique=True, max_size=8))
def test_the_configuration_offers_every_class_under_the_names_that_tasks_use(names):
    root = ET.fromstring(configuration(names))
    (choices,) = root.iter("Choices")
    (picture,) = root.iter("Image")
    assert [choice.get("value") for choice in choices] == names
    assert (choices.get("name"), choices.get("toName")) == ("choice", "image")
    assert (picture.get("name"), picture.get("value")) == ("image", "$image")
    assert root.find(".//Text").get("value") == "$candidates"
    assert root.find(".//Filter").get("toName") == "choice"


class Kept:
    """A maker that keeps what it is given, and in which portions."""

    def __init__(self) -> None:
        self.portions: list[int] = []
        self.answers: list[dict] = []
        self.finished = 0

    def add(self, answers) -> None:
        self.portions.append(len(answers))
        self.answers += answers

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("count", [0, 1, 2500])
def test_lines_come_in_portions_and_in_their_order_however_they_come(count):
    lines = [json.dumps({"path": str(n)}).encode() + b"\n" for n in range(count)]
    whole, merged, sunk = Kept(), Kept(), Kept()
    making(lambda _: whole)(lines, io.BytesIO())
    pieces = MergedLines(merged)
    for line in lines:
        assert pieces.write(line) == len(line)
    pieces.finish()
    sink = MadeSink(io.BytesIO(), sunk)
    sink.write(b"".join(lines), [])
    sink.finish()
    for kept in (whole, merged, sunk):
        assert [int(one["path"]) for one in kept.answers] == list(range(count))
        assert kept.finished == 1
    assert max(whole.portions, default=0) <= 1024
    assert max(merged.portions, default=0) <= 1024
