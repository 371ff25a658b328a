"""The run folder: what was saved comes back, whatever is wrong is one line, and no kill leaves a lie behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import support.tiny_run
import zsl_runtime
from support.forked import allow_fork, become_nobody, forked, killed_at_every_step, public_folder
from support.no_files import KINDS, to_hard_link, to_link, to_nowhere, to_pipe
from support.tiny_run import DIMS, Config, know_tiny, make_tiny_run, save_tiny_run
from zsl_runtime.errors import ArtefactError, UsageError, ZslError
from zsl_runtime.machine.storage import LOCK, parse_tensors
from zsl_train.methods import dcr_gan, eszsl
from zsl_train.recipe import Recipe
from zsl_train.training.run_folder import (
    READ,
    RUN_FORMAT,
    STATISTICS,
    Run,
    RunWriter,
    info_bytes,
    load_run,
    read_info,
    trained_before,
)

if TYPE_CHECKING:
    from pathlib import Path

assert public_folder  # a fixture, used by name

FILES = {
    "recipe.toml",
    "scores.json",
    "weights.safetensors",
    "backbone.safetensors",
    "generation.safetensors",
    "replay.safetensors",
    "pictures.safetensors",
    "run.json",
    "split.csv",
}


@pytest.fixture(scope="module")
def run() -> Run:
    return make_tiny_run()


@pytest.fixture(scope="module")
def original(run, tmp_path_factory) -> Path:
    """A finished run folder; tests copy it before they change it."""
    return save_tiny_run(run, tmp_path_factory.mktemp("run") / "r")


@pytest.fixture
def path(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "r")


@pytest.fixture(autouse=True)
def _known(monkeypatch) -> None:
    know_tiny(monkeypatch)


def damaged(path: Path) -> str:
    with pytest.raises(ArtefactError) as caught:
        load_run(path)
    assert caught.value.code == "E-RUN"
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    return caught.value.message


def same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- there and back --------------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was(run, original):
    got = load_run(original)
    assert same_state(got.trained.state_dict(), run.trained.state_dict())
    assert same_state(got.backbone.state_dict(), run.backbone.state_dict())
    assert got.backbone.weights_sha256 == run.backbone.weights_sha256
    for one, other in ((got.generation, run.generation), (got.replay, run.replay)):
        (tensors, metadata), (wanted, words) = (parse_tensors(x.to_bytes(), code="", where="") for x in (one, other))
        assert metadata == words
        assert tensors.keys() == wanted.keys()
        assert all(np.array_equal(tensors[key], wanted[key]) for key in wanted)
    np.testing.assert_array_equal(got.pictures, run.pictures)
    assert got.pictures.dtype == np.uint8
    np.testing.assert_array_equal(got.picture_labels, run.picture_labels)
    assert got.picture_labels.dtype == np.int64
    plain = ("method", "dims", "semantic_rule", "scores", "probe_count", "seed")
    assert {name: getattr(got, name) for name in plain} == {name: getattr(run, name) for name in plain}
    assert got.trained.views == run.trained.views
    assert {field.name for field in fields(Run)} >= set(plain)
    regions = torch.rand(2, 16, 12)
    assert torch.equal(got.trained.embedder(regions), run.trained.embedder(regions))
    for module in (*got.trained.modules().values(), got.backbone):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_the_recipe_is_saved_with_every_setting(original):
    recipe = load_run(original).recipe
    assert recipe["settings"] == {"lift": True, "rule": "fit"}
    assert recipe["seed"] == 11
    assert set(recipe) == {field.name for field in fields(Recipe)}


def test_a_finished_run_holds_these_files_and_no_more(original):
    assert {entry.name for entry in original.iterdir()} == FILES | {LOCK}


def test_a_run_without_a_lift(tmp_path):
    run = make_tiny_run(lift=False)
    got = load_run(save_tiny_run(run, tmp_path / "r"))
    assert got.trained.lift is None
    assert same_state(got.trained.state_dict(), run.trained.state_dict())


@pytest.fixture(scope="module")
def of_means(tmp_path_factory) -> tuple[Run, Path]:
    """A run that ships the Gaussian head, a generator in its means, and its folder; tests copy it."""
    run = make_tiny_run(rule="gaussian", draws=3)
    return run, save_tiny_run(run, tmp_path_factory.mktemp("means") / "r")


@pytest.mark.parametrize("draws", [0, 3])
def test_a_run_with_the_gaussian_head_comes_back_as_it_was(tmp_path, draws):
    run = make_tiny_run(rule="gaussian", draws=draws)
    path = save_tiny_run(run, tmp_path / "r")
    assert {entry.name for entry in path.iterdir()} == FILES | {LOCK, STATISTICS}
    info = read_info(path)
    assert info["gaussian"] == {"anchors": 5, "width": 5, "draws": draws}
    assert STATISTICS in info["files"]
    got = load_run(path)
    assert got.trained.head_rule == "gaussian"
    assert got.trained.means.shape == run.trained.means.shape
    assert same_state(got.trained.state_dict(), run.trained.state_dict())
    assert got.trained.views == run.trained.views
    for name in ("variance", "scale"):
        np.testing.assert_array_equal(getattr(got.trained.gaussian, name), getattr(run.trained.gaussian, name))
    for name in ("prior", "counts", "totals"):
        np.testing.assert_array_equal(getattr(got.generation.means, name), getattr(run.generation.means, name))
    semantic = torch.rand(4, 6)
    assert torch.equal(got.trained.means(semantic), run.trained.means(semantic))
    assert len(got.replay.labels) == 0
    assert not any(p.requires_grad for module in got.trained.modules().values() for p in module.parameters())


def test_a_run_with_a_published_head_says_nothing_of_means(original):
    assert "gaussian" not in read_info(original)
    assert not (original / STATISTICS).exists()
    assert load_run(original).generation.means is None


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", READ)
def test_one_changed_bit_in_any_file_is_found(path, name, where):
    data = bytearray((path / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (path / name).write_bytes(data)
    assert damaged(path) == f"{path / name} has changed since zsl-train wrote it; train the run again"


@given(st.data())
@settings(max_examples=100)
def test_a_changed_byte_of_run_json_is_found_or_is_white_space(original, tmp_path_factory, data):
    content = bytearray((original / "run.json").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(content)
    try:
        info = read_info(folder)
    except ArtefactError as error:
        assert error.code == "E-RUN"  # noqa: PT017  # both outcomes are fine
    else:
        assert info == read_info(original) or info.get("state") != "finished"


@settings(max_examples=60)
@given(st.binary(max_size=30) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_run_json_leads_to_anything_but_our_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "arbitrary"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtefactError):
        load_run(folder)


@pytest.mark.parametrize("name", [*READ, "run.json"])
def test_a_missing_or_shortened_file_is_found(path, name):
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: len(whole) // 2])
    assert str(path / name) in damaged(path)
    (path / name).unlink()
    assert str(path / name) in damaged(path)


def test_damaged_or_missing_statistics_are_found(of_means, tmp_path):
    path = shutil.copytree(of_means[1], tmp_path / "r")
    whole = (path / STATISTICS).read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        (path / STATISTICS).write_bytes(content)
        assert damaged(path) == f"{path / STATISTICS} has changed since zsl-train wrote it; train the run again"
    (path / STATISTICS).unlink()
    assert damaged(path) == f"{path / STATISTICS} is missing; train the run again"


def test_force_removes_the_statistics_too(of_means, tmp_path):
    path = shutil.copytree(of_means[1], tmp_path / "r")
    begin(path, "other", force=True)
    assert {entry.name for entry in path.iterdir()} == {LOCK, "run.json", "recipe.toml"}


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ({"anchors": 4, "width": 5, "draws": 3}, "size mismatch"),
        ({"anchors": 5, "width": 5, "draws": 0}, "synthesizer"),
        ({"anchors": 5, "width": 5}, "draws"),
        ({"anchors": 5, "width": 5, "draws": 3, "newer": 1}, "newer"),
        (7, "mapping"),
    ],
)
def test_a_shape_of_another_version_is_said_to_be_one(of_means, tmp_path, shape, part):
    path = shutil.copytree(of_means[1], tmp_path / "r")
    sign(path, gaussian=shape)
    message = damaged(path)
    assert part in message
    assert "cannot be rebuilt" in message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "name", ["run.json", "scores.json", "recipe.toml", "weights.safetensors", "pictures.safetensors"]
)
def test_a_file_of_a_run_is_a_plain_file(path, tmp_path, name, kind):
    """Nothing is waited for, read without end, or read elsewhere."""
    victim = tmp_path / "victim"
    (path / name).rename(victim)
    kind(path / name, victim)
    assert name in damaged(path)


def test_what_is_no_run_is_said_to_be_none(tmp_path):
    assert "is not a run folder; give the folder that zsl-train --out wrote" in damaged(tmp_path)
    assert "is not a run folder" in damaged(tmp_path / "nowhere")


def sign(path: Path, **changes) -> None:
    """Write run.json as a zsl-train of another version might have."""
    info = read_info(path)
    (path / "run.json").write_bytes(info_bytes({**info, **changes}))


def test_a_newer_format_is_named_with_ours(path):
    sign(path, format=RUN_FORMAT + 1, state="something new")
    assert f"run format {RUN_FORMAT + 1}, this version reads up to {RUN_FORMAT}; update zsl-deploy" in damaged(path)


@pytest.mark.parametrize("state", ["unfinished", "", None, 3])
def test_an_unfinished_run_says_how_to_go_on(path, state):
    sign(path, state=state)
    assert "unfinished run; repeat its zsl-train command to resume it" in damaged(path)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"method": "newer"}, "no method 'newer'"),
        ({"method": ["tiny"]}, "unhashable"),
        ({"config": {"lift": True, "newer": 1}}, "newer"),
        ({"config": {"lift": False}}, "belong to none of"),
        ({"dims": {"regions": 16}}, "missing"),
        ({"backbone": {"name": "newer", "size": 16}}, "no backbone 'newer'"),
        ({"backbone": {"name": "tiny", "size": 999}}, "cannot take pictures of 999 px"),
        ({"backbone": {}}, "'name'"),
        ({"semantic_rule": {"other": True}}, "semantic rule"),
    ],
)
def test_a_run_of_another_version_is_said_to_be_one(path, changes, part):
    sign(path, **changes, versions={"zsl-deploy": "9.9"})
    message = damaged(path)
    assert part in message
    assert "zsl-deploy 9.9 trained it" in message


def test_a_setting_that_a_method_has_no_more_is_passed_over(path, monkeypatch):
    sign(path, config={**read_info(path)["config"], "folds_of_old": 3})
    assert "folds_of_old" in damaged(path)
    monkeypatch.setattr(support.tiny_run, "RETIRED", ("folds_of_old",), raising=False)
    assert load_run(path).method == "tiny"
    assert "validation_folds" in eszsl.RETIRED  # what runs of ESZSL had until each fold stopped choosing for itself


@pytest.mark.parametrize("kind", ["drop", "prior", "earlier"])
def test_a_run_with_a_dead_regressor_comes_back_as_it_was(tmp_path, kind):
    """DCR-GAN's F1 does not ship where it is dead; of earlier versions it did, with columns that no view looks at."""
    config = dcr_gan.Config(hidden=8, regressor_hidden=8, searched_width=3, head_epochs=2, head_other_epochs=2)
    trained = dcr_gan.build(config, DIMS).eval()
    if kind == "earlier":
        trained.views = tuple(view for view in trained.views if view.name != "semantic")
    else:
        lift = trained.lift.silence(prior=kind == "prior")
        networks = trained.embedder, lift, trained.synthesizer
        trained = dcr_gan.method.shipped(config, *networks, trained.noise_width).eval()
    run = make_tiny_run(trained=trained)
    folder = save_tiny_run(run, tmp_path / "r")
    sign(folder, method="dcr-gan", config=asdict(config))
    got = load_run(folder)
    width = trained.feature_width + {"drop": 0, "prior": 1, "earlier": DIMS.attributes}[kind] + 3
    assert (got.trained.lifted_width, got.trained.views) == (width, trained.views)
    features = torch.rand(5, trained.feature_width)
    assert torch.equal(got.trained.lift(features), trained.lift(features))
    assert trained.lift(features).shape == (5, width)
    for one, other in zip(got.generation.head.weights, run.generation.head.weights, strict=True):
        np.testing.assert_array_equal(one, other)


# --- writing where something is --------------------------------------------------------------------------------------


def refused(action, code: str) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    assert caught.value.code == code
    assert caught.value.exit_code == 2
    return caught.value.message


def begin(path: Path, fingerprint: str, *, force: bool = False) -> RunWriter:
    writer = RunWriter(path, force=force)
    with writer.exclusive():
        writer.begin(Recipe(method="tiny"), Config(), fingerprint)
    return writer


def test_a_finished_run_needs_force(path):
    assert "add --force to replace it" in refused(lambda: RunWriter(path, force=False), "E-RUN-EXISTS")
    begin(path, "other", force=True)
    assert read_info(path)["state"] == "unfinished"
    assert not (path / "weights.safetensors").exists()


def test_force_removes_the_run_and_nothing_else(path):
    (path / "bundle").mkdir()
    (path / "bundle" / "model.onnx").write_bytes(b"of the user")
    (path / "notes.txt").write_text("of the user")
    (path / "checkpoint" / "final").mkdir(parents=True)
    (path / "log.jsonl").write_text("{}\n")
    begin(path, "other", force=True)
    assert {entry.name for entry in path.iterdir()} == {LOCK, "run.json", "recipe.toml", "bundle", "notes.txt"}
    assert (path / "bundle" / "model.onnx").read_bytes() == b"of the user"


def test_force_replaces_a_damaged_run(path):
    (path / "run.json").write_text("{")
    with pytest.raises(
        ArtefactError, match=r"run\.json is no JSON .*; the run is damaged: train it again with --force"
    ):
        RunWriter(path, force=False)
    begin(path, "new", force=True)
    assert read_info(path)["fingerprint"] == "new"


def test_what_is_no_run_is_never_written_to(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "photo.jpg").write_text("x")
    for force in (False, True):
        assert "is a file" in refused(lambda force=force: RunWriter(file, force=force), "E-RUN-EXISTS")
        assert "not a run folder" in refused(lambda force=force: RunWriter(folder, force=force), "E-RUN-EXISTS")


def test_an_empty_folder_and_what_a_killed_start_left_are_fine(tmp_path):
    (tmp_path / LOCK).touch()
    (tmp_path / ".tmp-file-01234567").write_text("half a run.json")
    begin(tmp_path, "a")
    assert {entry.name for entry in tmp_path.iterdir()} == {LOCK, "run.json", "recipe.toml"}


def test_an_unfinished_run_goes_on_with_the_same_recipe_and_data_only(tmp_path):
    begin(tmp_path, "a")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "one.pt").write_bytes(b"x")
    message = refused(lambda: begin(tmp_path, "b"), "E-RUN-RECIPE")
    assert "repeat the command that began it to resume, or add --force" in message
    begin(tmp_path, "a")
    assert (tmp_path / "checkpoint" / "one.pt").exists()
    begin(tmp_path, "b", force=True)
    assert not (tmp_path / "checkpoint").exists()
    assert read_info(tmp_path)["fingerprint"] == "b"


def test_another_build_goes_on_with_an_unfinished_run_and_is_told(tmp_path, monkeypatch):
    builds = ("0.1.0.dev7+g1a2b3c4", "0.1.0.dev8+g5d6e7f8", "0.1.0.dev8+g5d6e7f8", "0.1.0.dev9+g9a0b1c2")
    for build in builds:
        monkeypatch.setattr(zsl_runtime, "__version__", build)
        begin(tmp_path, "a")
    info = read_info(tmp_path)
    assert info["versions"]["zsl-deploy"] == builds[-1]
    assert info["earlier_builds"] == [builds[0], builds[1]]
    begin(tmp_path, "b", force=True)
    assert "earlier_builds" not in read_info(tmp_path)


@pytest.mark.parametrize("kind", [to_link, to_hard_link, to_nowhere, to_pipe], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint", "run.json", "recipe.toml", ".tmp-run.json-00000000"])
@pytest.mark.parametrize("force", [False, True])
def test_a_run_is_gone_on_with_through_no_link(tmp_path, name, kind, force):
    """Whoever sent a run folder cannot let its training write or delete elsewhere."""
    if (name, kind) == ("checkpoint", to_hard_link):
        pytest.skip("there are no hard links of folders")
    path, victim = tmp_path / "r", tmp_path / "victim"
    begin(path, "one").log({"step": 1})
    before = {}
    if name == "checkpoint":
        victim.mkdir()
        (victim / "mine").write_text("precious")
        before[victim / "mine"] = b"precious"
    else:
        victim.write_bytes((path / name).read_bytes() if (path / name).exists() else b"precious")
        before[victim] = victim.read_bytes()
        (path / name).unlink(missing_ok=True)
    kind(path / name, victim)
    try:
        begin(path, "one", force=force).log({"step": 2})
    except ArtefactError as error:
        assert error.code == "E-RUN"  # noqa: PT017
        assert not force
    except UsageError as error:
        assert (error.code, name) == ("E-RUN-EXISTS", "run.json")  # noqa: PT017
    else:
        assert (path / "log.jsonl").read_bytes().endswith(b'"step": 2}\n')
    assert {one: one.read_bytes() for one in before} == before
    assert not (tmp_path / "nowhere").exists()


def test_one_process_at_a_time(tmp_path):
    first, second = RunWriter(tmp_path / "r", force=False), RunWriter(tmp_path / "r", force=False)

    def enter() -> None:
        with second.exclusive():
            pytest.fail("two writers at once")

    with first.exclusive():
        assert "another zsl-train is writing to" in refused(enter, "E-RUN-BUSY")
    with second.exclusive():
        pass


def test_a_run_that_was_finished_while_we_waited_is_not_overwritten(run, tmp_path):
    late = RunWriter(tmp_path / "r", force=False)
    save_tiny_run(run, tmp_path / "r")

    def enter() -> None:
        with late.exclusive():
            pytest.fail("a finished run was opened for writing")

    refused(enter, "E-RUN-EXISTS")
    load_run(tmp_path / "r")


def test_the_log_grows_by_lines(tmp_path):
    writer = begin(tmp_path, "a")
    writer.log({"a": 1})
    begin(tmp_path, "a").log({"b": "ä"})
    first, second = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert first == {"t": first["t"], "a": 1}
    assert second == {"t": second["t"], "b": "ä"}
    assert 0 <= first["t"] < 60


# --- kills, full disks, closed folders -------------------------------------------------------------------------------


@allow_fork
def test_a_run_killed_at_any_step_is_unfinished_or_whole_and_can_be_repeated(run, tmp_path):
    path, states = tmp_path / "r", []
    for _ in killed_at_every_step(lambda: save_tiny_run(run, path) and 0):
        try:
            got = load_run(path)
        except ArtefactError as error:
            states.append(next(word for word in ("unfinished", "is not a run folder") if word in error.message))
        else:
            assert same_state(got.trained.state_dict(), run.trained.state_dict())
            states.append("whole")
            shutil.rmtree(path)  # begin again: a finished run is not written twice
    assert set(states) == {"is not a run folder", "unfinished", "whole"}
    assert len(states) > 20


@allow_fork
def test_replacing_a_run_killed_at_any_step_never_shows_a_mixture(original, tmp_path):
    path, states = tmp_path / "r", []

    def restore() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(original, path)
        (path / "checkpoint").mkdir()
        (path / "bundle of the user").mkdir()

    restore()
    for _ in killed_at_every_step(lambda: begin(path, "new", force=True) and 0):
        info = read_info(path)
        states.append(info["state"])
        if info["state"] == "unfinished":
            assert info["fingerprint"] == "new"
            assert not (path / "checkpoint").exists()
            assert not (path / "weights.safetensors").exists()
        elif {entry.name for entry in path.iterdir()} >= set(READ):
            load_run(path)
        else:
            assert "is missing" in damaged(path)
        begin(path, "new", force=True)  # can be repeated
        restore()
    assert set(states) == {"finished", "unfinished"}


def told(action) -> int:
    """Exit code of `action`; its error is printed."""
    try:
        action()
    except ZslError as error:
        print(error)
        return error.exit_code
    return 0


@allow_fork
def test_a_full_disk_is_one_line_and_the_run_stays_unfinished(run, tmp_path):
    path = tmp_path / "r"
    outcome = forked(lambda: told(lambda: save_tiny_run(run, path)), file_limit=6_000)
    assert outcome.code == 2, outcome.stderr
    assert outcome.stdout.startswith("E-SYSTEM: could not write")
    assert len(outcome.stdout.splitlines()) == 1
    assert "unfinished run" in damaged(path)
    assert not [entry for entry in path.iterdir() if entry.name.startswith(".tmp-")]
    save_tiny_run(run, path)
    load_run(path)


@allow_fork
def test_a_folder_that_may_not_be_written_to_is_one_line(run, public_folder):
    public_folder.chmod(0o555)
    outcome = forked(lambda: told(lambda: save_tiny_run(run, public_folder / "r")), **become_nobody())
    assert outcome.code == 2, outcome.stderr
    assert outcome.stdout.startswith("E-SYSTEM: could not create the run folder")
    assert len(outcome.stdout.splitlines()) == 1


@allow_fork
def test_a_run_that_may_not_be_read_is_one_line(path, public_folder):
    run = shutil.copytree(path, public_folder / "r")
    for name in ("weights.safetensors", "run.json"):
        (run / name).chmod(0)
        outcome = forked(lambda: told(lambda: load_run(run)), **become_nobody())
        assert outcome.code == 2, outcome.stderr
        assert "E-SYSTEM: could not read the run" in outcome.stdout
        assert name in outcome.stdout


def test_seconds_of_training_are_those_of_all_sittings(tmp_path):
    log = tmp_path / "log.jsonl"
    assert trained_before(log) == 0  # the first sitting
    first = [
        '{"t": 8.0, "session": "closed"}',
        '{"t": 10.0, "trained_before": 0.0}',
        '{"t": 25.5, "session": "fold 1/2"}',
    ]
    log.write_text("\n".join([*first, '{"t": 99.0, "ses']))  # killed while it wrote
    assert trained_before(log) == 15.5
    # The second sitting reads features for longer than the first lived: what comes before its mark is not training.
    log.write_text("\n".join([*first, '{"t": 40.0, "note": ""}', '{"t": 41.0, "trained_before": 15.5}']))
    assert trained_before(log) == 15.5
    with log.open("a") as file:
        file.write('\n{"t": 43.0, "session": "final"}\n[1]\n{"t": "x"}\nnull\n')
    assert trained_before(log) == 17.5


def test_a_run_that_goes_on_knows_how_long_it_trained_before(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("zsl_train.training.run_folder.time.monotonic", lambda: now[0])
    for sitting, expected in enumerate((0.0, 7.0, 14.0)):
        writer = RunWriter(tmp_path / "r", force=False)
        with writer.exclusive():
            writer.begin(Recipe(method="tiny"), Config(), "the same")
            now[0] += 50 * sitting  # features and closed forms
            assert writer.begin_training() == expected
            now[0] += 7
            writer.log({"session": "final"})
            now[0] += 1000  # until the next sitting
    again = RunWriter(tmp_path / "r", force=True)
    with again.exclusive():
        again.begin(Recipe(method="tiny"), Config(), "another")
        assert again.begin_training() == 0


def test_checkpoints_of_a_run_that_was_killed_at_its_very_end_go_with_the_next_command(tmp_path):
    writer = RunWriter(tmp_path / "r", force=False)
    with writer.exclusive():
        writer.begin(Recipe(method="tiny"), Config(), "the same")
        writer.finish({}, {}, {})
        (tmp_path / "r" / "checkpoint").mkdir()
        (tmp_path / "r" / "checkpoint" / "case.npz").write_bytes(b"1")
        with pytest.raises(UsageError, match="E-RUN-EXISTS"):
            RunWriter(tmp_path / "r", force=False)
        assert (tmp_path / "r" / "checkpoint" / "case.npz").exists()  # its writer is at work
    with pytest.raises(UsageError, match="E-RUN-EXISTS"):
        RunWriter(tmp_path / "r", force=False)
    assert not (tmp_path / "r" / "checkpoint").exists()
