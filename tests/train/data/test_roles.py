"""Our own split: seeded, the same for a class whatever comes beside it, every seen class trained."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.tiny_data import class_name, make_tiny_data
from zsl_train.data.folder import write_split
from zsl_train.data.open import open_image_set


def test_our_own_split_is_seeded_complete_and_comes_back_from_its_file(tmp_path):
    folder = make_tiny_data(tmp_path / "data", per_class=11)
    data = open_image_set(folder, seed=5)
    assert "seed 5" in data.split_version
    for index in range(6):
        roles = data.role[data.labels == index].tolist()
        assert roles.count("train") == (9 if index < 4 else 0)
        assert roles.count("test") == (2 if index < 4 else 11)
    assert (open_image_set(folder, seed=5).role == data.role).all()
    assert (open_image_set(folder, seed=6).role != data.role).any()
    write_split(data, folder / "split.csv")
    again = open_image_set(folder, seed=7)
    assert again.paths == data.paths
    assert (again.role == data.role).all()
    assert sorted(p.name for p in folder.iterdir()) == ["classes.csv", "images", "split.csv"]


def test_a_new_class_leaves_the_other_classes_split_alone(tmp_path):
    folder = make_tiny_data(tmp_path / "few", seen=3, unseen=0)
    header, *rows = (folder / "classes.csv").read_text().splitlines(keepends=True)
    (folder / "classes.csv").write_text("".join([header, *reversed(rows)]))
    few = open_image_set(folder)
    more = open_image_set(make_tiny_data(tmp_path / "more", seen=6, unseen=2))
    roles = dict(zip(more.paths, more.role, strict=True))
    assert all(roles[path] == role for path, role in zip(few.paths, few.role, strict=True))


@settings(max_examples=12, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 2**32))
@example(counts=[1, 2, 3], seed=0)
def test_our_own_split_trains_every_seen_class_and_tests_what_it_can(tmp_path_factory, counts, seed):
    folder = make_tiny_data(tmp_path_factory.mktemp("d") / "data", seen=len(counts), unseen=1, per_class=9, side=8)
    for index, count in enumerate(counts):
        for number in range(count, 9):
            (folder / "images" / class_name(index) / f"{number:03}.png").unlink()
    data = open_image_set(folder, seed=seed)
    for index, count in enumerate(counts):
        roles = data.role[data.labels == index].tolist()
        assert len(roles) == count
        assert roles.count("train") >= 1
        assert roles.count("test") == (0 if count == 1 else max(1, round(0.2 * count)))
    assert any("one photograph" in note for note in data.notes) == (1 in counts)
