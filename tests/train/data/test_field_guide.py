"""The field guide: what a bird looks like follows from its attributes; its folder is one anybody could have made."""

from __future__ import annotations

import csv
import errno
import io
import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.forked import allow_fork, become_nobody, forked, killed_at_every_step, public_folder
from zsl_runtime.errors import SystemProblem, UsageError, run_command
from zsl_runtime.head.class_file import read_class_csv
from zsl_train.data.field_guide import __main__ as command
from zsl_train.data.field_guide import draw_field_guide, folder
from zsl_train.data.field_guide.bird import Pose, draw_bird, random_pose
from zsl_train.data.field_guide.folder import choose_looks
from zsl_train.data.field_guide.picture import draw_picture, to_jpeg
from zsl_train.data.field_guide.species import NEW, SEEN, UNSEEN, Species, read_species
from zsl_train.data.field_guide.traits import (
    ATTRIBUTES,
    TRAITS,
    attribute_names,
    attribute_row,
    attribute_vectors,
    attribute_words,
    word_vector,
)
from zsl_train.data.open import open_image_set

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["public_folder"]  # a fixture

SEEN_SPECIES, UNSEEN_SPECIES, NEW_SPECIES = (read_species(table) for table in (SEEN, UNSEEN, NEW))
EVERYBODY = (*SEEN_SPECIES, *UNSEEN_SPECIES, *NEW_SPECIES)
PLAIN = {trait.name: trait.values[0] for trait in TRAITS}
TOGGLES = [(trait.name, value) for trait in TRAITS for value in trait.values[1:]]


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def guide(tmp_path_factory) -> Path:
    """The whole field guide, with four pictures a species."""
    return draw_field_guide(tmp_path_factory.mktemp("field_guide") / "guide", seed=5, per_class=4)


@pytest.fixture
def small(monkeypatch):
    """One seen species, one unseen and a new one in place of all."""
    for table in ("SEEN", "UNSEEN", "NEW"):
        monkeypatch.setattr(folder, table, "\n".join(getattr(folder, table).strip().splitlines()[:2]))


# --- the species ---------------------------------------------------------------------------------------------------


def test_there_are_a_few_dozen_species_with_unique_pleasant_names():
    names = [species.name for species in EVERYBODY]
    assert (len(SEEN_SPECIES), len(UNSEEN_SPECIES), len(NEW_SPECIES)) == (24, 8, 4)
    assert len(set(names)) == 36
    assert all(" " in name for name in names)
    assert any(not name.isascii() for name in names)


@pytest.mark.parametrize("species", EVERYBODY, ids=lambda species: species.name)
def test_the_shares_of_each_trait_are_of_its_values_and_sum_to_one(species):
    assert list(species.looks) == [trait.name for trait in (*multi(), *yes_or_no())]
    for trait in TRAITS:
        shares = species.looks[trait.name]
        assert set(shares) <= set(trait.values)
        assert sum(shares.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in shares.values())


def multi():
    return [trait for trait in TRAITS if not trait.yes_or_no]


def yes_or_no():
    return [trait for trait in TRAITS if trait.yes_or_no]


def usual(species: Species) -> list[str]:
    return [max(species.looks[trait.name], key=species.looks[trait.name].get) for trait in TRAITS]


def test_seen_species_show_and_lack_every_attribute_so_that_unseen_ones_are_new_mixtures_of_known_parts():
    table = np.array([attribute_row(species.looks) for species in SEEN_SPECIES])
    assert table.shape == (24, 34)
    shown = (table >= 0.5).sum(axis=0)
    assert dict(zip(attribute_names(), shown, strict=True)) == {
        name: count for name, count in zip(attribute_names(), shown, strict=True) if 3 <= count <= 21
    }
    others = np.array([attribute_row(species.looks) for species in UNSEEN_SPECIES])
    assert ((others >= 0.5).any(axis=0) & (others < 0.5).any(axis=0)).all()


def test_every_unseen_or_new_species_is_near_another_one_and_no_species_is_the_same_as_another():
    looks = np.array([usual(species) for species in EVERYBODY])
    apart = (looks[:, None] != looks[None]).sum(axis=2) + 99 * np.eye(len(looks), dtype=int)
    assert apart.min() >= 5
    assert apart[24:].min(axis=1).max() <= 6


def test_some_species_vary():
    table = np.array([attribute_row(species.looks) for species in EVERYBODY])
    mixed = ((table > 0) & (table < 1)).any(axis=1)
    assert 12 <= mixed.sum() <= 24
    assert ((table < 0.21) | (table > 0.79)).all()


def test_a_misspelt_trait_in_the_table_is_an_error():
    with pytest.raises(ValueError, match="Grey Thing unknown traits: wheels"):
        read_species("Grey Thing | grey black white red | plain plain hooked\n    wheels crest")


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 60), seed=st.integers(0, 2**32), which=st.integers(0, len(EVERYBODY) - 1))
def test_birds_of_a_species_show_each_value_in_its_share_to_within_one_bird(count, seed, which):
    species = EVERYBODY[which]
    birds = choose_looks(species, count, np.random.default_rng(seed))
    assert len(birds) == count
    for trait in TRAITS:
        for value in trait.values:
            shown = sum(bird[trait.name] == value for bird in birds)
            assert abs(shown - count * species.looks[trait.name].get(value, 0.0)) < 1


def test_eight_in_ten_birds_of_a_species_that_mostly_has_a_crest_have_one():
    (reedlark,) = [species for species in SEEN_SPECIES if species.name == "Ashen Reedlark"]
    assert reedlark.looks["crest"]["present"] == 0.8
    birds = choose_looks(reedlark, 20, np.random.default_rng(0))
    assert [bird["crest"] for bird in birds].count("present") == 16


# --- the words -----------------------------------------------------------------------------------------------------


def test_attributes_have_names_and_words_in_the_same_order():
    assert len(ATTRIBUTES) == len(attribute_names()) == len(attribute_words()) == len(set(attribute_names())) == 34
    assert attribute_names()[0] == "body_color=brown"
    assert attribute_words()[0] == "body color brown"
    for name, words in zip(attribute_names(), attribute_words(), strict=True):
        assert name.replace("_", " ").replace("=", " ") == words


def test_a_word_vector_is_a_unit_vector_that_only_the_word_decides():
    words = sorted({word for words in attribute_words() for word in words.split()})
    table = np.array([word_vector(word) for word in words])
    assert table.shape == (len(words), 50)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1)
    assert np.abs(np.triu(table @ table.T, 1)).max() < 0.6
    np.testing.assert_array_equal(word_vector("wing"), word_vector("wing"))


def test_attributes_differ_by_the_words_in_which_they_differ():
    vectors = dict(zip(attribute_names(), attribute_vectors().astype(np.float64), strict=True))
    given = vectors["bill_length=long"] - vectors["tail_length=long"]
    np.testing.assert_allclose(given, word_vector("bill") - word_vector("tail"), atol=1e-6)
    assert attribute_vectors().dtype == np.float32


# --- the drawing ---------------------------------------------------------------------------------------------------


@cache
def drawn(looks: tuple[tuple[str, str], ...], seed: int):
    return np.asarray(draw_picture(dict(looks), np.random.default_rng(seed)), dtype=int)


def difference(looks: dict[str, str], others: dict[str, str], seed: int) -> float:
    """Share of pixels that differ visibly between two birds in the same scene."""
    first, second = (drawn(tuple(which.items()), seed) for which in (looks, others))
    assert first.shape == second.shape
    return float((np.abs(first - second).max(axis=2) > 12).mean())


@pytest.mark.parametrize(("trait", "value"), TOGGLES, ids=[f"{trait}={value}" for trait, value in TOGGLES])
def test_each_attribute_changes_the_picture_of_the_same_bird_in_the_same_scene_and_not_all_of_it(trait, value):
    changed = [difference(PLAIN, PLAIN | {trait: value}, seed) for seed in (0, 1, 2)]
    assert max(changed) < 0.5
    assert np.median(changed) > 0.0004


def test_the_same_looks_in_the_same_scene_are_the_same_picture_and_another_scene_is_another():
    first, again, other = (draw_picture(PLAIN, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert np.abs(np.subtract(first.resize((64, 64)), other.resize((64, 64)), dtype=int)).mean() > 10


def test_parts_have_the_place_and_colour_that_the_attributes_say():
    """A bird in the default pose, checked on its shapes and not on its pixels."""
    for trait, value, axis, side in (
        ("bill_length", "long", 0, "max"),
        ("tail_length", "long", 0, "min"),
        ("neck_length", "long", 1, "min"),
        ("leg_length", "long", 1, "max"),
        ("crest", "present", 1, "min"),
    ):
        assert beyond(shapes_of(), axis, side) < beyond(shapes_of(**{trait: value}), axis, side) - 0.1
    assert brightness(shapes_of(wing_color="white")) > brightness(shapes_of(wing_color="black"))


def shapes_of(**looks: str):
    return draw_bird(PLAIN | looks, Pose())[0]


def beyond(shapes, axis: int, side: str) -> float:
    """How far the solid parts reach to one side."""
    ends = np.concatenate([shape.points[:, axis] for shape in shapes if shape.solid])
    return ends.max() if side == "max" else -ends.min()


def brightness(shapes) -> float:
    return float(np.mean([shape.color for shape in shapes]))


def test_the_feet_stand_on_one_level_however_the_body_is_turned_and_lower_with_long_legs():
    for seed in range(20):
        pose = random_pose(np.random.default_rng(seed))
        short, long = (draw_bird(PLAIN | {"leg_length": length}, pose)[1] for length in ("short", "long"))
        assert short.shape == long.shape == (2, 2)
        np.testing.assert_allclose(short[:, 1], 0.58)
        np.testing.assert_allclose(long - short, [[0.0, 0.5], [0.0, 0.5]])


def test_pictures_have_varying_sizes_within_bounds_and_are_photographs_by_their_format():
    sizes = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        data = to_jpeg(draw_picture(PLAIN, rng), rng)
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            sizes.add(picture.size)
        short, long = sorted(picture.size)
        assert 220 <= short <= 280
        assert long <= 1.45 * short + 1
        assert 2_000 < len(data) < 60_000
    assert len(sizes) > 8
    assert any(width < height for width, height in sizes)
    assert any(width > height for width, height in sizes)


# --- the folder ----------------------------------------------------------------------------------------------------


def test_the_folder_has_what_a_data_folder_has_and_nothing_else(guide):
    assert sorted(path.name for path in guide.iterdir()) == [
        "attribute_vectors.npy",
        "attributes.csv",
        "classes.csv",
        "images",
        "more_classes.csv",
        "new_species",
        "split.csv",
    ]
    named = {species.name for species in (*SEEN_SPECIES, *UNSEEN_SPECIES)}
    assert {path.name for path in (guide / "images").iterdir()} == named
    assert {path.name for path in (guide / "new_species").iterdir()} == {s.name for s in NEW_SPECIES[:2]}
    for below in [*(guide / "images").iterdir(), *(guide / "new_species").iterdir()]:
        assert sorted(path.name for path in below.iterdir()) == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]


def test_training_reads_the_folder_without_a_complaint(guide):
    images = open_image_set(guide)
    assert images.notes == ()
    assert len(images) == 32 * 4
    assert images.split_version == "given by split.csv"
    assert images.table.seen.sum() == 24
    assert images.words == attribute_words()
    np.testing.assert_array_equal(images.word_vectors, attribute_vectors())
    assert len(images.rows("train")) == 24 * 3
    assert len(images.rows("test", seen=True)) == 24
    assert len(images.rows("test", seen=False)) == 8 * 4
    np.testing.assert_allclose(images.table.raw, [attribute_row(s.looks) for s in (*SEEN_SPECIES, *UNSEEN_SPECIES)])


def test_the_further_classes_can_be_added_to_a_model_of_this_folder(guide):
    table = read_class_csv(guide / "classes.csv", need_split=True)
    more = read_class_csv(guide / "more_classes.csv", attributes=table.attributes, need_split=False)
    assert more.names == tuple(species.name for species in NEW_SPECIES)
    assert not set(more.names) & set(table.names)
    assert rows(guide / "more_classes.csv")[0] == ["name", *attribute_names()]
    assert rows(guide / "attributes.csv")[0] == ["name", "words"]


def test_the_folder_is_small(guide):
    sizes = [path.stat().st_size for path in guide.rglob("*.jpg")]
    assert len(sizes) == 34 * 4
    assert np.mean(sizes) < 25_000


def test_no_two_pictures_are_the_same(guide):
    pictures = [path.read_bytes() for path in guide.rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures)


def test_another_process_draws_the_same_bytes_from_the_same_seed(guide, tmp_path):
    script = (
        "import sys; from pathlib import Path; from zsl_train.data.field_guide import folder\n"
        "for table in ('SEEN', 'UNSEEN', 'NEW'):\n"
        "    setattr(folder, table, '\\n'.join(getattr(folder, table).strip().splitlines()[:2]))\n"
        "folder.draw_field_guide(sys.argv[1], seed=5, per_class=4)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, tmp_path / "few"], check=True, env=environment)
    whole = content(guide)
    few = {name: data for name, data in content(tmp_path / "few").items() if name.endswith(".jpg")}
    assert len(few) == 3 * 4
    assert few == {name: whole[name] for name in few}


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_folder_and_another_seed_another(tmp_path):
    first, again, other = (
        content(draw_field_guide(tmp_path / name, seed=seed, per_class=4))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first.keys() == other.keys()
    same = {name for name in first if first[name] == other[name]}
    assert same == {"classes.csv", "more_classes.csv", "split.csv", "attributes.csv", "attribute_vectors.npy"}


@pytest.mark.usefixtures("small")
def test_progress_counts_every_picture(tmp_path):
    told = []
    draw_field_guide(tmp_path / "guide", per_class=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 15) for done in range(1, 16)]
    roles = [role for image, role in rows(tmp_path / "guide" / "split.csv")[1:] if "Rowan" in image]
    assert roles == ["train", "train", "train", "test", "train"]


@pytest.mark.usefixtures("small")
def test_an_empty_folder_is_filled_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    assert draw_field_guide(tmp_path / "empty", per_class=4) == tmp_path / "empty"
    assert (tmp_path / "empty" / "classes.csv").is_file()
    draw_field_guide(tmp_path / "a" / "b", per_class=4)
    assert (tmp_path / "a" / "b" / "classes.csv").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]


def refused(out: Path, code: str, *parts: str, **options) -> None:
    with pytest.raises(UsageError) as caught:
        draw_field_guide(out, **options)
    assert caught.value.code == code
    for part in parts:
        assert part in caught.value.message


def test_what_is_there_already_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("I am a file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    before = content(tmp_path)
    for name in ("mine", "file", "nowhere"):
        refused(tmp_path / name, "E-FIELD-GUIDE-OUT", name, "not an empty folder")
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_too_few_pictures_and_a_negative_seed_are_refused(tmp_path):
    refused(tmp_path / "guide", "E-FIELD-GUIDE-COUNT", "3 pictures", "at least 4", per_class=3)
    refused(tmp_path / "guide", "E-FIELD-GUIDE-SEED", "-1", seed=-1)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("I am a file")
    with pytest.raises(SystemProblem, match="E-SYSTEM: could not write the field guide"):
        draw_field_guide(tmp_path / "file" / "guide")


@allow_fork
def test_a_place_where_one_may_not_write_is_one_line(public_folder):
    closed = public_folder / "closed"
    closed.mkdir(mode=0o555)
    outcome = forked(lambda: run_command(command.draw, [str(closed / "guide")]), **become_nobody())
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: E-SYSTEM: could not write the field guide")
    assert outcome.stderr.count("\n") == 1


@allow_fork
def test_a_place_that_one_may_not_look_into_is_one_line(public_folder):
    closed = public_folder / "closed"
    closed.mkdir(mode=0o311)
    outcome = forked(lambda: run_command(command.draw, [str(closed)]), **become_nobody())
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: E-SYSTEM: could not look into the folder")


@allow_fork
@pytest.mark.usefixtures("small")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    outcome = forked(lambda: run_command(command.draw, [str(tmp_path / "guide"), "--per-class", "4"]), file_limit=4000)
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: E-SYSTEM: could not write the field guide")
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small")
def test_an_interrupted_drawing_leaves_nothing(tmp_path):
    def stop(done: int, _total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_field_guide(tmp_path / "guide", per_class=4, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@allow_fork
@pytest.mark.usefixtures("small")
def test_killed_at_any_moment_the_folder_is_whole_or_absent(tmp_path):
    steps, target = 0, tmp_path / "guide"
    for step in killed_at_every_step(lambda: run_command(command.draw, [str(target), "--per-class", "4"])):
        steps = step
        assert not target.exists() or len(content(target)) == 3 * 4 + 5
        if target.exists():
            break
    assert steps > 20
    assert target.exists()


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_the_command_draws_and_prints_the_folder(tmp_path, capsys):
    out = tmp_path / "guide"
    assert run_command(command.draw, [str(out), "--per-class", "4", "--seed", "9"]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    again = draw_field_guide(tmp_path / "again", seed=9, per_class=4)
    assert content(out) == content(again)


@pytest.mark.usefixtures("small")
def test_on_a_terminal_the_command_counts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run_command(command.draw, [str(tmp_path / "guide"), "--per-class", "4"]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("\rdrawing 1 of 12 pictures\r")
    assert shown.endswith("\rdrawing 12 of 12 pictures\n")


def test_the_module_runs_as_a_command_and_refuses_in_one_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "x").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "zsl_train.data.field_guide", tmp_path / "x"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: E-FIELD-GUIDE-OUT: ")
    assert done.stderr.count("\n") == 1


def test_a_disk_that_fails_while_the_last_file_is_written_is_one_line(tmp_path, small, monkeypatch):
    def failing(path: Path, data: bytes) -> None:
        if path.name == "attribute_vectors.npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.write_bytes(data)

    monkeypatch.setattr(folder, "write_synced", failing)
    with pytest.raises(SystemProblem, match="No space left on device"):
        draw_field_guide(tmp_path / "guide", per_class=4)
    assert not list(tmp_path.iterdir())


# --- how hard it is ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reading_attributes_names_unseen_species_and_colour_alone_or_wrong_attributes_do_not(tmp_path):
    """ESZSL (Romera-Paredes and Torr 2015) in closed form on a frozen ImageNet network, gamma 10 and lambda 0.01."""
    import torch

    from zsl_runtime.pixels.pixels import prepare
    from zsl_train.backbones import build

    images = open_image_set(draw_field_guide(tmp_path / "guide", per_class=16))
    network = build("efficientnet_lite2")
    pictures = np.stack([prepare(images.root / path, network.pixels) for path in images.paths])
    features = np.concatenate(
        [network(torch.from_numpy(pictures[i : i + 16])).mean(dim=1).numpy() for i in range(0, len(pictures), 16)]
    )
    coarse = pictures[:, ::2, ::2].astype(int) // 52
    bins = (coarse @ [25, 5, 1]).reshape(len(pictures), -1)
    colors = np.sqrt([np.bincount(row, minlength=125) / row.size for row in bins])
    semantic = images.table.raw / np.linalg.norm(images.table.raw, axis=1, keepdims=True)
    shuffled = [np.concatenate([np.random.default_rng(s).permutation(24), np.arange(24, 32)]) for s in range(10)]

    assert unseen_accuracy(images, features, semantic) > 40
    assert unseen_accuracy(images, colors, semantic) < 35
    assert np.mean([unseen_accuracy(images, features, semantic[rows]) for rows in shuffled]) < 25


def unseen_accuracy(images, features, semantic) -> float:
    """Mean per-class accuracy in percent on the 8 unseen species; chance is 12.5."""
    train, test = images.rows("train"), images.rows("test", seen=False)
    x = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6) / np.sqrt(features.shape[1])
    signs = np.where(images.labels[train][:, None] == np.arange(24), 1.0, -1.0)
    left = x[train].T @ x[train] + 10 * np.eye(x.shape[1])
    right = semantic[:24].T @ semantic[:24] + 0.01 * np.eye(semantic.shape[1])
    weights = np.linalg.solve(left, x[train].T @ signs @ semantic[:24]) @ np.linalg.inv(right)
    named = 24 + (x[test] @ weights @ semantic[24:].T).argmax(axis=1)
    truth = images.labels[test]
    return 100 * float(np.mean([(named[truth == row] == row).mean() for row in range(24, 32)]))
