"""The split doctor: what it says of sound and of odd data, and its exit codes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.line import call
from support.locked import lock
from support.no_files import to_terabyte
from support.tiny_data import make_tiny_data
from support.tiny_xlsa17 import CLASSES, FEATURES, SEEN, attribute_matrix, feature_rows, lists, make_pair
from zsl_train.cli import main as zsl_train

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "xlsa17"
needs_xlsa17 = pytest.mark.skipif(not DATA.is_dir(), reason="xlsa17 is not there ($ZSL_TEST_DATA)")


def check(folder, *more):
    """Exit code, and the lines by state."""
    said = call(zsl_train, "--check-data", folder, *more)
    found: dict[str, str] = {"ok": "", "note": "", "BROKEN": ""}
    for line in said.out.decode().splitlines():
        state, _, text = line.partition(" ")
        found[state] += text.strip() + "\n"
    return said.code, found


def test_a_sound_pair_is_told_list_by_list(tmp_path):
    code, found = check(make_pair(tmp_path / "my data"))
    assert code == 0
    assert not found["BROKEN"]
    for part in (
        "PS v1 (train_loc and val_loc hold 18 test_seen pictures; not used)",
        "its lists count from 1; 80 pictures are named",
        "att of att_splits.mat: 8 classes, 6 attributes, unit length, 0 negative numbers",
        "original_att of att_splits.mat: 8 classes, 6 attributes, lengths 100 to 100",
        "80, 6 seen and 2 unseen classes, 6 attributes",
        "res101.mat: 14 wide, from",
        "train 42, val 0, test of seen classes 18, test of unseen classes 20, in no list 0",
        "training feature rows a seen class: 7 to 7, median 7",
        f"usable: zsl-train --data '{tmp_path / 'my data'}' --features res101.mat --out RUN",
    ):
        assert part in found["ok"]
    val = len(lists()["val_loc"])
    assert (
        f"val_loc: {val} pictures, 6 of them in test_seen_loc, 0 in test_unseen_loc, 14 in trainval_loc"
        in found["note"]
    )
    assert "no picture of test_seen_loc is ever looked at" in found["note"]
    assert "8 classes: none of the published data sets" in found["note"]


def test_what_is_odd_is_a_note_and_still_usable(tmp_path):
    attributes = -attribute_matrix()
    attributes[:, 3] = attributes[:, 0]
    rows = feature_rows()
    rows[:, 4] = 1
    zero = {key: values[:, None] - 1 for key, values in lists().items()}
    changes = zero | {"att": attributes, "original_att": None, "allclasses_names": None, "val_loc": None}
    code, found = check(make_pair(tmp_path, splits=changes, features={"features": rows.T}))
    assert code == 0
    for part in (
        "this one lacks: val_loc, original_att, allclasses_names",
        "its lists count from 0",
        "2 classes have the same attributes as another: class 1 = class 4. Attributes cannot tell them apart",
        "100% of the numbers are negative; train with --set clamp_negative=false",
        "1 of 14 dimensions of res101.mat are the same number in every row",
        "names no classes",
    ):
        assert part in found["note"]


@pytest.mark.parametrize(
    ("splits", "features", "part"),
    [
        ({"trainval_loc": None}, {}, "E-SPLITS"),
        ({}, {"features": feature_rows()}, "transposed"),
        ({}, {"features": np.full((3, 80), np.inf)}, "NaN or infinite"),
        ({}, {"labels": np.arange(80)}, "E-LABELS"),
        ({"att": attribute_matrix() * (np.arange(8) != 2)}, {}, "E-ATTRIBUTE-ZERO"),
        ({"att": None}, {}, "E-ATTRIBUTES"),
    ],
)
def test_what_cannot_be_used_is_exit_2(tmp_path, splits, features, part):
    code, found = check(make_pair(tmp_path, splits=splits, features=features))
    assert code == 2
    assert part in found["BROKEN"]
    assert "usable" not in found["ok"]


def test_features_and_splits_may_be_elsewhere(tmp_path):
    data, other = make_pair(tmp_path / "a"), make_pair(tmp_path / "b", splits={"train_loc": None})
    (data / FEATURES).unlink()
    code, found = check(data)
    assert code == 2
    assert "holds no feature file" in found["BROKEN"]
    code, found = check(data, "--features", other / FEATURES, "--splits", other)
    assert code == 0
    assert "without train_loc and val_loc" in found["ok"]
    assert f"--splits {other} --out RUN" in found["ok"]
    code, found = check(data, "--features", other / FEATURES, "--set", "attributes=original_att")
    assert code == 0


def test_photographs_are_checked_too(tmp_path):
    folder = make_tiny_data(tmp_path / "d", seen=3, unseen=2, per_class=4)
    code, found = check(folder)
    assert code == 0
    assert "photographs in" in found["ok"]
    assert "20, 3 seen and 2 unseen classes" in found["ok"]
    assert "our own seeded split" in found["ok"]
    assert f"usable: zsl-train --data {folder} --out RUN" in found["ok"]
    (folder / "images" / "no class").mkdir()
    code, found = check(folder)
    assert code == 2
    assert "E-DATA-CLASS-FOLDER" in found["BROKEN"]


def test_pictures_that_lie_there_twice_are_told_by_what_they_do(tmp_path):
    folder = make_tiny_data(tmp_path / "d", seen=3, unseen=2, per_class=6, split=True)
    assert "byte for byte" not in check(folder)[1]["note"]
    roles = dict(line.split(",") for line in (folder / "split.csv").read_text().splitlines()[1:])
    of: dict[str, dict[str, list[str]]] = {}
    for path, role in roles.items():
        of.setdefault(path.split("/")[0], {}).setdefault(role, []).append(path)
    first, second, _ = (one for one in of.values() if "train" in one)

    def copy(one: str, other: str) -> str:
        shutil.copy(folder / "images" / one, folder / "images" / other)
        return check(folder)[1]["note"]

    found = copy(first["train"][0], first["test"][0])
    pair = " = ".join(sorted((first["train"][0], first["test"][0])))
    assert f"1 pictures are trained on and tested, byte for byte, so that the test is too easy: '{pair}'; " in found
    found = copy(second["train"][0], second["train"][1])
    pair = " = ".join(sorted(second["train"][:2]))
    assert f"1 pictures lie there more than once and count as often: '{pair}'" in found
    found = copy(first["train"][1], second["train"][1])
    pair = " = ".join(sorted((first["train"][1], second["train"][1])))
    assert f"1 pictures lie in more than one class, byte for byte: '{pair}'" in found
    assert "count as often" not in found


def test_a_folder_that_cannot_be_listed_is_broken_and_litter_and_other_kinds_are_notes(tmp_path, monkeypatch):
    folder = make_tiny_data(tmp_path / "d", seen=3, unseen=2, per_class=4)
    first = min(path for path in (folder / "images").iterdir())
    (first / "@eaDir" / "000.png").mkdir(parents=True)
    shutil.copy(first / "000.png", first / "@eaDir" / "000.png" / "SYNOPHOTO_THUMB_M.jpg")
    (first / "a.heic").write_bytes(b"x")
    code, found = check(folder)
    assert code == 0
    assert "20, 3 seen and 2 unseen classes" in found["ok"]
    assert "pictures left out because of where they lie: 1 in @eaDir (thumbnails of a NAS)" in found["note"]
    assert "HEIC pictures left out: 1 (.heic); save as JPEG" in found["note"]
    lock(monkeypatch, first)
    code, found = check(folder)
    assert code == 2
    assert f"could not list the folder '{first}': Permission denied" in found["BROKEN"]
    said = call(zsl_train, "--data", folder, "--out", tmp_path / "run")
    assert said.code == 2
    assert f"could not list the folder '{first}': Permission denied" in said.err
    assert not (tmp_path / "run").exists()


def test_wrong_commands_are_one_line(tmp_path):
    for more, part in ((("--out", "run"), "leave --out out"), (("--data", "x"), "leave --data out")):
        said = call(zsl_train, "--check-data", tmp_path, *more)
        assert (said.code, part in said.err) == (2, True)
    assert "E-DATA-LAYOUT" in call(zsl_train, "--check-data", tmp_path / "nowhere").err
    assert "Missing option '--data'" in call(zsl_train, "--out", tmp_path).err


@pytest.mark.parametrize("name", ["testclasses.txt", "attributes.txt"])
def test_a_giant_in_the_place_of_a_list_is_one_line(tmp_path, name):
    data = make_pair(tmp_path)
    to_terabyte(data / name, tmp_path)
    ended = call(zsl_train, "--check-data", data)
    assert ended.code == 2
    told = [
        line for line in (ended.out + ended.err.encode()).decode().splitlines() if "1,099,511,627,776 bytes" in line
    ]
    assert len(told) == 1
    assert str(data / name) in told[0]


def test_lists_of_class_names_are_held_against_the_split(tmp_path):
    data = make_pair(tmp_path / "data")
    seen = [name for name, flag in zip(CLASSES, SEEN, strict=True) if flag]
    unseen = sorted(set(CLASSES) - set(seen))
    (data / "testclasses.txt").write_text("\n".join(unseen) + "\n\n")
    (data / "trainvalclasses.txt").write_text("\n".join(seen))
    (data / "trainclasses1.txt").write_text("\n".join(seen[:4]))
    (data / "valclasses1.txt").write_text("\n".join(seen[4:]))
    code, found = check(data)
    assert code == 0
    assert "testclasses.txt: the 2 of the unseen classes of the split" in found["ok"]
    assert "trainvalclasses.txt: the 6 of the seen classes of the split" in found["ok"]
    assert "trainclasses1.txt and valclasses1.txt together: the 6 of trainvalclasses.txt" in found["ok"]
    (data / "testclasses.txt").write_text("\n".join([unseen[0], seen[0]]))
    (data / "valclasses1.txt").write_bytes("\n".join([*seen[3:], "gr\xfcn"]).encode("latin-1"))
    code, found = check(data)
    assert code == 0
    assert f"testclasses.txt differs from the unseen classes of the split: '{seen[0]}' only there" in found["note"]
    assert f"'{unseen[1]}' only in the unseen classes of the split" in found["note"]
    assert f"trainclasses1.txt and valclasses1.txt share '{seen[3]}'; they are not used" in found["note"]
    assert "together differs from trainvalclasses.txt" in found["note"]


@needs_xlsa17
@pytest.mark.parametrize(
    ("name", "overlaps", "usable"),
    [("CUB", (1173, 591), True), ("AWA2", (4031, 1851), False), ("FLO", (1173, 230), False)],
)
def test_the_published_files(name, overlaps, usable):
    code, found = check(DATA / name)
    assert code == (0 if usable else 2)
    assert f"as many as published for {name}" in found["ok"]
    for part in (f"{count} of them in test_seen_loc" for count in overlaps):
        assert part in found["note"]
    if usable:
        assert "testclasses.txt: the 50 of the unseen classes of the split" in found["ok"]
