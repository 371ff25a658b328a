"""The original archives of AWA2, SUN, aPY and FLO, each as a tiny one of the same layout."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from support.line import call
from support.locked import lock
from support.tiny_xlsa17 import cells
from zsl_runtime.errors import UsageError
from zsl_train.cli import main as zsl_train
from zsl_train.data.open import open_image_set

PER_CLASS = 4
ANIMALS = ("grizzly+bear", "antelope", "seal", "rat")  # in the order of the list, which is not the alphabet's
SCENES = ("abbey", "airport_airport", "airport_terminal", "bakery_shop")
THINGS = ("bird", "cat", "jetski", "statue")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))


def draw(path: Path, colour: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 60, 90)).save(path)


def numbered(path: Path, names) -> None:
    path.write_text("".join(f"{number:6}\t{name}\n" for number, name in enumerate(names, start=1)))


def make_awa2(folder: Path) -> Path:
    base = folder / "Animals_with_Attributes2"
    for name in ANIMALS:
        for number in range(PER_CLASS):
            draw(base / "JPEGImages" / name / f"{name}_{10001 + number}.jpg")
    numbered(base / "classes.txt", ANIMALS)
    numbered(base / "predicates.txt", ("black", "newworld", "swims"))
    rows = [" ".join(f"{10 * c + a:8.2f}" for a in range(3)) for c in range(4)]
    rows[3] = "  -1.00   5.00  50.00"
    (base / "predicate-matrix-continuous.txt").write_text("\n".join(rows) + "\n")
    return folder


def make_sun(folder: Path) -> Path:
    base = folder / "SUNAttributeDB"
    base.mkdir(parents=True)
    folders = ("a/abbey", "a/airport/airport", "a/airport/terminal", "b/bakery/shop")
    paths = [f"{place}/sun_{place[-1]}{number}.jpg" for place in folders for number in range(4)]
    for path in paths:
        draw(folder / "images" / path)
    votes = np.arange(16 * 3).reshape(16, 3) / 48
    scipy.io.savemat(base / "images.mat", {"images": cells(paths)})
    scipy.io.savemat(base / "attributes.mat", {"attributes": cells(["sailing/ boating", "dirt/soil", "man-made"])})
    scipy.io.savemat(base / "attributeLabels_continuous.mat", {"labels_cv": votes})
    return folder


def make_apy(folder: Path) -> Path:
    """Two objects in every picture: the left half is of one class, the right half of another."""
    base = folder / "attribute_data"
    base.mkdir(parents=True)
    (base / "class_names.txt").write_text("\n".join(THINGS) + "\n")
    (base / "attribute_names.txt").write_text("2D Boxy\nFurry\nWing\n")
    lists = {"apascal_train.txt": "VOC2008/JPEGImages", "apascal_test.txt": "VOC2008/JPEGImages"}
    lists["ayahoo_test.txt"] = "ayahoo_test_images"
    count = itertools.count()
    for name, place in lists.items():
        lines = []
        for number in range(3):
            picture = Image.new("RGB", (20, 10), (10, 60, 90))
            picture.paste((200, 60, 90), (12, 0, 20, 10))
            (folder / place).mkdir(parents=True, exist_ok=True)
            file = f"{name[:2]}{name[8]}_{number}.png"
            picture.save(folder / place / file)
            for box in ("1 1 12 10", "13 1 20 10"):
                thing = next(count) % 4
                lines.append(f"{file} {THINGS[thing]} {box} {thing % 2} {thing // 2} {number % 2}")
        (base / name).write_text("\n".join(lines) + "\n")
    return folder


def make_flo(folder: Path) -> Path:
    labels = np.repeat([3, 1, 4, 2], PER_CLASS)
    for number in range(len(labels)):
        draw(folder / "jpg" / f"image_{number + 1:05}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    return folder


def save_split(folder: Path, labels: np.ndarray, **more) -> None:
    """Class 2 is unseen; of the others the last picture is for testing. Positions from 1."""
    rows = np.arange(1, len(labels) + 1)
    last = np.array([np.flatnonzero(labels == one)[-1] + 1 for one in (0, 1, 3)])
    unseen = rows[labels == 2]
    content = {
        "trainval_loc": np.setdiff1d(rows, np.concatenate([last, unseen]))[:, None],
        "test_seen_loc": last[:, None],
        "test_unseen_loc": unseen[:, None],
    }
    scipy.io.savemat(folder / "att_splits.mat", content | more)


MAKERS = {"AWA2": make_awa2, "SUN": make_sun, "APY": make_apy, "FLO": make_flo}
NAMES = {"AWA2": ANIMALS, "SUN": SCENES, "APY": THINGS, "FLO": tuple(f"class {i}" for i in range(1, 5))}


def labels_in_order(kind: str) -> np.ndarray:
    if kind == "AWA2":  # sorted by path
        return np.repeat([ANIMALS.index(name) for name in sorted(ANIMALS)], PER_CLASS)
    if kind == "APY":
        return np.arange(18) % 4
    return np.repeat([2, 0, 3, 1], PER_CLASS) if kind == "FLO" else np.repeat(np.arange(4), PER_CLASS)


def split_of(kind: str, folder: Path, **more) -> None:
    named = {"allclasses_names": cells(NAMES[kind])} if kind != "FLO" else {"att": np.arange(20.0).reshape(5, 4) - 9}
    save_split(folder, labels_in_order(kind), **named, **more)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_an_archive_with_the_proposed_split(tmp_path, kind):
    folder = MAKERS[kind](tmp_path / "data")
    split_of(kind, folder)
    data = open_image_set(folder)
    labels = labels_in_order(kind)
    assert data.table.names == NAMES[kind]
    assert data.table.seen.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(data.labels, labels)
    assert all((data.root / path).is_file() for path in data.paths)
    np.testing.assert_array_equal(data.rows("test", seen=False), np.flatnonzero(labels == 2))
    assert len(data.rows("test", seen=True)) == 3
    assert "proposed split" in data.split_version
    assert data.data_set == kind
    assert data.unit == "photographs"
    said = call(zsl_train, "--check-data", folder)
    assert said.code == 0
    assert b"usable" in said.out


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - {"FLO"}))
def test_without_a_split_our_own_is_made_and_warned_of(tmp_path, kind):
    data = open_image_set(MAKERS[kind](tmp_path / "data"))
    assert (~data.table.seen).sum() == 1
    assert "our own seeded class split" in data.split_version
    assert any("cannot be compared with published ones" in note for note in data.notes)


@pytest.mark.parametrize("kind", ["AWA2", "SUN", "FLO"])
def test_pictures_are_matched_by_name_where_names_are_there(tmp_path, kind):
    folder = MAKERS[kind](tmp_path / "data")
    labels = labels_in_order(kind)
    split_of(kind, folder)
    plain = open_image_set(folder)
    order = np.random.default_rng(0).permutation(len(labels))  # position p of the .mat files is picture order[p]
    position = np.argsort(order) + 1
    content = scipy.io.loadmat(folder / "att_splits.mat")
    moved = {key: position[np.ravel(content[key]) - 1][:, None] for key in content if key.endswith("_loc")}
    kept = {key: value for key, value in content.items() if not key.startswith("__")}
    scipy.io.savemat(folder / "att_splits.mat", kept | moved)
    files = cells([f"/somebody/{kind}/images/{plain.paths[i]}" for i in order])
    scipy.io.savemat(folder / "res101.mat", {"image_files": files})
    (folder / "._res101.mat").write_bytes(b"\x00\x05\x16\x07 what macOS leaves beside a file")
    data = open_image_set(folder)
    np.testing.assert_array_equal(data.role, plain.role)
    assert any("matched by the names in res101.mat" in note for note in data.notes)


def test_litter_and_folders_of_others_do_not_disturb_an_archive(tmp_path, monkeypatch):
    """Thumbnails of a NAS beside and among the classes; the archive lies at the top of a disk, with its lost+found."""
    plain = open_image_set(make_awa2(tmp_path / "awa2"))
    pictures = tmp_path / "awa2" / "Animals_with_Attributes2" / "JPEGImages"
    for place in (pictures, pictures / "seal"):
        draw(place / "@eaDir" / "seal_10001.jpg" / "SYNOPHOTO_THUMB_XL.jpg")
    (tmp_path / "awa2" / "lost+found").mkdir()
    real = Path.is_file

    def is_file(path):
        if "lost+found" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    data = open_image_set(tmp_path / "awa2")
    assert data.paths == plain.paths
    assert "pictures left out because of where they lie: 2 in @eaDir (thumbnails of a NAS)" in data.notes


def test_objects_of_apy_are_found_beside_folders_that_nobody_may_look_into(tmp_path, monkeypatch):
    folder = make_apy(tmp_path / "apy")
    count = len(open_image_set(folder))
    (folder / "private").mkdir()
    lock(monkeypatch, "private")
    assert len(open_image_set(folder)) == count


def test_attributes_of_awa2_are_as_they_stand_in_the_file(tmp_path):
    data = open_image_set(make_awa2(tmp_path))
    assert data.table.attributes == ("black", "newworld", "swims")
    assert data.words == ("black", "new world", "swims")
    np.testing.assert_array_equal(data.table.raw, [[0, 1, 2], [10, 11, 12], [20, 21, 22], [-1, 5, 50]])
    assert any("1 attributes are marked as missing" in note for note in data.notes)


def test_attributes_of_sun_are_the_mean_of_a_classs_pictures(tmp_path):
    data = open_image_set(make_sun(tmp_path))
    votes = np.arange(16 * 3).reshape(16, 3) / 48
    np.testing.assert_allclose(data.table.raw, votes.reshape(4, 4, 3).mean(axis=1))
    assert data.paths[4] == "a/airport/airport/sun_t0.jpg"


def test_objects_of_apy_are_cut_out_once(tmp_path):
    folder = make_apy(tmp_path / "data")
    data = open_image_set(folder)
    left, right = (np.asarray(Image.open(data.root / path)) for path in data.paths[:2])
    assert (left.shape, right.shape) == ((10, 12, 3), (10, 8, 3))
    assert (left[0, 0, 0], right[0, 0, 0]) == (10, 200)
    assert data.root.is_relative_to(tmp_path / "cache")
    made = (data.root / data.paths[0]).stat().st_mtime_ns
    again = open_image_set(folder)
    assert again.root == data.root
    assert (data.root / data.paths[0]).stat().st_mtime_ns == made
    rows = [
        line.split()
        for name in ("apascal_train", "apascal_test", "ayahoo_test")
        for line in (folder / "attribute_data" / f"{name}.txt").read_text().splitlines()
    ]
    mean = np.array([[float(cell) for cell in row[6:]] for row in rows if row[1] == "jetski"]).mean(axis=0)
    np.testing.assert_allclose(data.table.raw[2], mean)


def test_flowers_need_their_sentence_vectors(tmp_path):
    folder = make_flo(tmp_path / "data")
    with pytest.raises(UsageError, match="sentence vectors of its classes are in att_splits"):
        open_image_set(folder)
    split_of("FLO", folder)
    np.testing.assert_array_equal(open_image_set(folder).table.raw, (np.arange(20.0).reshape(5, 4) - 9).T)


def break_line(path: Path) -> None:
    path.write_text("what\n" + path.read_text())


@pytest.mark.parametrize(
    ("kind", "spoil", "part"),
    [
        ("AWA2", lambda d: break_line(d / "Animals_with_Attributes2" / "classes.txt"), "line 1 is 'what'"),
        ("AWA2", lambda d: break_line(d / "Animals_with_Attributes2" / "predicate-matrix-continuous.txt"), "could not"),
        ("AWA2", lambda d: shutil.rmtree(d / "Animals_with_Attributes2" / "JPEGImages"), "there is no folder"),
        ("AWA2", lambda d: draw(d / "Animals_with_Attributes2" / "JPEGImages" / "yeti" / "1.jpg"), "'yeti'"),
        ("SUN", lambda d: shutil.rmtree(d / "images" / "b"), "4 of the 16 pictures"),
        ("SUN", lambda d: scipy.io.savemat(d / "SUNAttributeDB" / "attributes.mat", {"x": 1}), "holds no attributes"),
        (
            "SUN",
            lambda d: scipy.io.savemat(d / "SUNAttributeDB/attributeLabels_continuous.mat", {"labels_cv": np.eye(3)}),
            "expected finite numbers (16, 3)",
        ),
        ("SUN", lambda d: (d / "SUNAttributeDB" / "images.mat").write_bytes(b"no"), "cannot be read as a MATLAB file"),
        ("APY", lambda d: break_line(d / "attribute_data" / "apascal_train.txt"), "line 1 is not a picture"),
        ("APY", lambda d: shutil.rmtree(d / "ayahoo_test_images"), "3 pictures of the lists"),
        ("APY", lambda d: (d / "attribute_data" / "class_names.txt").write_text("cat\n"), "does not name"),
        ("FLO", lambda d: (d / "jpg" / "image_00002.jpg").unlink(), "1 of the 16 pictures"),
        ("FLO", lambda d: scipy.io.savemat(d / "imagelabels.mat", {"labels": np.zeros(16)}), "whole numbers from 1"),
    ],
)
def test_a_damaged_archive_is_one_line(tmp_path, kind, spoil, part):
    folder = MAKERS[kind](tmp_path / "data")
    if kind == "FLO":
        split_of(kind, folder)
    spoil(folder)
    with pytest.raises(UsageError) as caught:
        open_image_set(folder)
    assert caught.value.code == "E-ARCHIVE-FILE"
    assert part in caught.value.message


def test_a_split_of_other_pictures_is_refused(tmp_path):
    folder = make_awa2(tmp_path / "data")
    labels = labels_in_order("AWA2")
    save_split(folder, np.roll(labels, 1), allclasses_names=cells(ANIMALS))
    with pytest.raises(UsageError, match="neither wholly seen nor wholly unseen"):
        open_image_set(folder)
    save_split(folder, labels, allclasses_names=cells(SCENES))
    with pytest.raises(UsageError, match="about other classes"):
        open_image_set(folder)


def test_an_object_whose_picture_cannot_be_read_is_left_to_the_extraction(tmp_path):
    folder = make_apy(tmp_path / "data")
    min((folder / "ayahoo_test_images").iterdir()).write_bytes(b"no picture")
    data = open_image_set(folder)
    missing = [path for path in data.paths if not (data.root / path).is_file()]
    assert len(missing) == 2
