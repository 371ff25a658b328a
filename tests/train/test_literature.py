"""The optimistic column of the papers: scored on test pictures, marked, and without any effect on what ships."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.tiny_data import make_tiny_data
from support.tiny_prepared import CONFIG
from support.tiny_run import TinyBackbone
from zsl_train.data.open import open_image_set
from zsl_train.recipe import Recipe
from zsl_train.scoring.evaluate import score
from zsl_train.training.beside import Literature, best_on_test
from zsl_train.training.choice import Choice
from zsl_train.training.prepared import Prepared, prepare
from zsl_train.training.stored import load_array
from zsl_train.training.trainer import Trainer

if TYPE_CHECKING:
    from zsl_train.training.shipped import Shipped

RECIPE = Recipe(method="sc-egg", folds=2, word_width=5, backbone="tiny", head="published", literature=True)
WHOLE, HALF = Choice(1.0, 0.2, 1.5, None, {}), Choice(0.5, 0.2, 1.5, None, {})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    folder = make_tiny_data(tmp_path_factory.mktemp("data") / "d", seen=5, unseen=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare(open_image_set(folder), TinyBackbone(), RECIPE)


def trainer(prepared, folder, recipe=RECIPE) -> Trainer:
    return Trainer(prepared, recipe, CONFIG, checkpoints=folder, log=lambda _: None)


def looked_at(one: Trainer, choice: Choice) -> tuple[Shipped, Literature]:
    """What it ships, and what looked at its training on the way."""
    literature = Literature(one)
    return one.train(choice, look=literature.look), literature


@pytest.mark.parametrize("choice", [WHOLE, HALF])
def test_what_ships_is_the_same_with_it_and_without(prepared, tmp_path, choice):
    found = []
    for looked in (False, True):
        one = trainer(prepared, tmp_path / str(looked))
        if looked:
            shipped, literature = looked_at(one, choice)
            literature.figures()
        else:
            shipped = one.train(choice)
        found.append((shipped.trained.state_dict(), shipped.head, shipped.replay))
    (state, head, replay), (state_too, head_too, replay_too) = found
    assert all(np.array_equal(state[key], state_too[key]) for key in state)
    assert all(np.array_equal(a, b) for a, b in zip(head.weights, head_too.weights, strict=True))
    np.testing.assert_array_equal(replay.features, replay_too.features)
    assert not (tmp_path / "False" / "literature").exists()


def test_the_last_snapshot_is_the_whole_training_without_gamma(prepared, tmp_path):
    one = trainer(prepared, tmp_path)
    shipped, literature = looked_at(one, WHOLE)
    plain = one.test(shipped.trained, replace(shipped.head, gamma=0.0, temperature=1.0)).figures
    last = literature.figures()["last"]
    assert last == {"share": 1.0} | {name: plain[name] for name in ("T1", "U", "S", "H", "AUSUC")}


def test_it_is_of_the_published_head_where_the_gaussian_one_ships(prepared, tmp_path):
    """The same training under either head has the same snapshots, and what ships does not change by looking."""
    gaussian = replace(RECIPE, head="gaussian")
    plain = trainer(prepared, tmp_path / "plain", gaussian).train(WHOLE).trained.state_dict()
    looked, of_gaussian = looked_at(trainer(prepared, tmp_path / "looked", gaussian), WHOLE)
    _, of_published = looked_at(trainer(prepared, tmp_path / "published"), WHOLE)
    state = looked.trained.state_dict()
    assert all(np.array_equal(plain[key], state[key]) for key in plain)
    assert of_gaussian.figures() == of_published.figures()


def test_snapshots_beyond_the_chosen_share_are_those_of_the_whole_schedule(prepared, tmp_path):
    one = trainer(prepared, tmp_path / "half")
    _, whole = looked_at(trainer(prepared, tmp_path / "whole"), WHOLE)
    _, half = looked_at(one, HALF)
    files = {path.name for path in (tmp_path / "half" / "literature").glob("scores-*.npy")}
    assert files == {"scores-0.25.npy", "scores-0.5.npy"}
    assert half.figures() == whole.figures()
    one.method = None  # read back, nothing is trained
    assert half.figures() == whole.figures()
    assert whole.seconds > 0


def test_what_the_final_training_ran_is_not_run_again(prepared, tmp_path):
    lines = []
    one = Trainer(prepared, RECIPE, CONFIG, checkpoints=tmp_path, log=lines.append)
    _, literature = looked_at(one, HALF)
    literature.figures()
    ran = {(line["session"], line["stage"]): line["steps"] for line in lines if "seconds" in line}
    whole = next(line["of"] for line in lines if line["session"] == "literature" and line["stage"] == "eggn")
    assert {stage for session, stage in ran if session == "literature"} == {"eggn"}  # earlier stages are read back
    assert ran["final", "eggn"] + ran["literature", "eggn"] == whole


def test_figures_are_those_of_the_files(prepared, tmp_path):
    _, literature = looked_at(trainer(prepared, tmp_path), WHOLE)
    found = literature.figures()
    rows = prepared.rows("test")
    for share in RECIPE.snapshots:
        logits = load_array(tmp_path / "literature" / f"scores-{share!r}.npy")
        wanted = score(logits, prepared.images.labels[rows], prepared.images.table.seen, 0.0, 1.0)
        assert found["snapshots"][str(share)] == {name: wanted[name] for name in ("T1", "U", "S", "H", "AUSUC")}
    assert "optimistic" in found["note"]


def figures(**known):
    return dict.fromkeys(("T1", "U", "S", "H", "AUSUC", "ECE")) | known


def test_the_best_is_the_highest_and_of_equals_the_earliest():
    found = best_on_test({0.25: figures(H=3.0, T1=9.0), 0.5: figures(H=5.0, T1=1.0), 1.0: figures(H=5.0, T1=2.0)})
    assert found["best"]["share"] == 0.5
    assert found["best"]["H"] == 5.0
    assert found["best_T1"] == 9.0
    assert found["last"]["share"] == 1.0
    assert found["last"]["T1"] == 2.0


def test_without_test_pictures_nothing_is_best():
    found = best_on_test({0.5: figures(), 1.0: figures(T1=4.0)})
    assert found["best"] is None
    assert found["best_T1"] == 4.0
    assert best_on_test({1.0: figures()})["best_T1"] is None
