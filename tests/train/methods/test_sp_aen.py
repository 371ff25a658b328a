"""SP-AEN's losses, penalty and steps against formulas written out in NumPy, and its pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from support.tiny_features import SEEN, tiny_training_data
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_train.devices import CPU, computing
from zsl_train.losses.wgan_gp import gradient_penalty
from zsl_train.methods.base import run_batched, run_rows
from zsl_train.methods.lengths import estimate, plan, size
from zsl_train.methods.session import Rng, Session
from zsl_train.methods.sp_aen import method, pictures
from zsl_train.methods.sp_aen.config import PRESETS, Config
from zsl_train.methods.sp_aen.method import SpAen, Updater, drop, held_out, minimise, start_he
from zsl_train.methods.sp_aen.pictures import CaffeNetConv5, FromScratch, Inverter, PictureDecoder, multiply_adds, sheet
from zsl_train.recipe import make_recipe, method_config, read_recipe
from zsl_train.training.runner import with_defaults

DATA = tiny_training_data()
SMALL = {"hidden": 8, "batch": 12, "stage1_steps": 4, "stage2_steps": 4, "learning_rate": 1e-2, "decoder_channels": 8}


def model(**settings) -> SpAen:
    return SpAen(DATA, Config(**{**SMALL, **settings}), 0)


def leaky(x):
    return np.where(x > 0, x, 0.3 * x)


def layer(linear: nn.Linear, x):
    return x @ linear.weight.detach().numpy().T.astype(np.float64) + linear.bias.detach().numpy()


def net(module, x):
    return leaky(layer(module.last, leaky(layer(module.first, x))))


def features_of(one: SpAen) -> np.ndarray:
    return one.features.numpy().astype(np.float64)


def score(one: SpAen, embedding):
    return layer(one.critic.last, leaky(layer(one.critic.first, embedding)))[:, 0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- networks --------------------------------------------------------------------------------------------------------


def test_the_shipped_embedder_is_two_leaky_layers_on_unit_pooled_features_and_rows_are_semantic_vectors():
    one = model(scaling="l2")
    trained = method._trained(one.embedder).eval()
    pooled = DATA.regions[DATA.rows].astype(np.float64).mean(axis=1)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    f = run_batched(trained.embedder, DATA.regions[DATA.rows])
    np.testing.assert_allclose(f, net(one.embed, unit), atol=1e-4)
    weight, bias = run_rows(trained.rows, DATA.semantic)
    np.testing.assert_array_equal(weight, DATA.semantic)
    np.testing.assert_array_equal(bias, 0)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(nn.Linear(400, 300), 400), (nn.Conv2d(40, 50, 3), 360), (nn.ConvTranspose2d(60, 50, 4, 2, 1), 240)],
)
def test_weights_start_as_he_says_and_biases_at_zero(layer, fan_in):
    start_he(layer, torch.Generator().manual_seed(0))
    assert float(layer.weight.detach().std()) == pytest.approx(np.sqrt(2 / fan_in), rel=0.02)
    assert not layer.bias.any()


def test_dropout_drops_its_share_keeps_the_mean_and_comes_from_the_stages_own_generator():
    x = torch.ones(200, 500)
    torch.manual_seed(1)
    first = drop(x, 0.3, Rng(5))
    torch.manual_seed(2)
    assert torch.equal(first, drop(x, 0.3, Rng(5)))
    assert not torch.equal(first, drop(x, 0.3, Rng(6)))
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert drop(x, 0.0, Rng(5)) is x
    assert drop(x, 0.3, None) is x


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["l2", "standard"])
def test_what_f_and_g_minimise_is_the_formula(scaling):
    one = model(feature_weight=7.0, norm_weight=3.0, batch=1000, scaling=scaling)
    losses, kept = one.keep_losses()
    x = features_of(one)
    wanted = net(one.keep, x)
    rebuilt = layer(one.decoder.last, leaky(layer(one.decoder.first, wanted)))
    squared = ((rebuilt - x) ** 2).sum(axis=1).mean() / (x**2).sum(axis=1).mean()
    assert float(losses["features"].detach()) == pytest.approx(7 * squared, rel=1e-4)
    norms = np.linalg.norm(wanted, axis=1)
    assert float(losses["norm"].detach()) == pytest.approx(3 * ((norms - 1) ** 2).mean(), rel=1e-3)
    assert sorted(kept.detach().norm(dim=1).tolist()) == pytest.approx(sorted(norms), rel=1e-3)


@pytest.mark.parametrize(("adversarial", "joint"), [*product(("sigmoid", "wasserstein"), (False, True))])
def test_what_e_minimises_is_the_formula(monkeypatch, adversarial, joint):
    one = model(adversarial=adversarial, dropout=0.0, negatives="max", batch=1000, critic_steps=1)
    judge = sigmoid if adversarial == "sigmoid" else np.asarray
    x = features_of(one)
    e, f = net(one.embed, x), net(one.keep, x)
    scores = e @ DATA.semantic[SEEN].T.astype(np.float64)
    columns = np.cumsum(SEEN)[DATA.labels] - 1
    hinges = 0.2 - scores[np.arange(len(x)), columns][:, None] + scores
    hinges[np.arange(len(x)), columns] = 0
    given = []
    monkeypatch.setattr(
        method, "minimise", lambda loss, share, *updaters: given.append((float(loss.detach()), updaters))
    )
    losses = one.embed_step(0.0, joint=joint)
    rank = 1000 * np.maximum(hinges, 0).max(axis=1).mean()
    fooling = -50 * judge(score(one, e)).mean()
    assert float(losses["rank"].detach()) == pytest.approx(rank, rel=1e-4)
    assert float(losses["fooling"].detach()) == pytest.approx(fooling, rel=1e-4)
    whole = rank + fooling
    if joint:
        real = 50 * judge(score(one, f)).mean()
        assert float(losses["real"].detach()) == pytest.approx(real, rel=1e-4)
        whole += real + float((losses["features"] + losses["norm"]).detach())
    assert given[0][0] == pytest.approx(whole, rel=1e-4)
    assert given[0][1] == ((one.of_embed, one.of_keep) if joint else (one.of_embed,))
    # And D: the distance weighs 50, the penalty on the raw score 500.
    distance = judge(score(one, f)).mean() - judge(score(one, e)).mean()
    assert float(losses["distance"].detach()) == pytest.approx(distance, abs=1e-5)
    assert given[1][0] == pytest.approx(500 * float(losses["penalty"].detach()) - 50 * distance, rel=1e-4, abs=1e-3)
    assert given[1][1] == (one.of_critic,)


def test_the_penalty_is_on_the_raw_score_by_finite_differences():
    one = model()
    rng = np.random.default_rng(0)
    real, fake, mix = rng.standard_normal((5, 6)), rng.standard_normal((5, 6)), rng.random((5, 1))
    between = mix * real + (1 - mix) * fake
    gradient = np.empty_like(between)
    for axis in range(6):
        up, down = between.copy(), between.copy()
        up[:, axis] += 1e-6
        down[:, axis] -= 1e-6
        gradient[:, axis] = (score(one, up) - score(one, down)) / 2e-6
    wanted = ((np.linalg.norm(gradient, axis=1) - 1) ** 2).mean()
    tensors = [torch.tensor(array, dtype=torch.float32) for array in (real, fake, mix)]
    got = gradient_penalty(one.critic, tensors[0], tensors[1], tensors[0][:, :0], tensors[2])
    assert float(got.detach()) == pytest.approx(wanted, rel=1e-4)


def test_the_critic_tells_f_from_e_once_it_has_learned():
    one = model(learning_rate=1e-2, batch=1000, dropout=0.0, penalty=0.1)
    distances = [float(one.critic_step(0.0)[0].detach()) for _ in range(40)]
    assert distances[-1] > distances[0] + 0.1
    before = one.embed.first.weight.clone(), one.keep.first.weight.clone()
    one.critic_step(0.0)
    assert torch.equal(before[0], one.embed.first.weight)  # D alone moves
    assert torch.equal(before[1], one.keep.first.weight)


# --- updates ---------------------------------------------------------------------------------------------------------


def test_an_update_regularises_weights_clips_each_tensor_and_lowers_the_rate():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(5.0)
    config = Config(weight_decay=0.1, clip=1.0, learning_rate=0.5, drop_at=0.5)
    updater = Updater([layer], config, decay=True)
    assert float(updater.regulariser().detach()) == pytest.approx(0.1 / 2 * 6 * 4)  # biases are free
    assert Updater([layer], config, decay=False).decay == 0
    minimise(100 * layer.bias.sum(), 0.49, updater)
    assert float(layer.bias.grad.norm()) == pytest.approx(1.0, rel=1e-4)  # of 141
    assert float(layer.weight.grad.norm()) == pytest.approx(0.1 * 2 * np.sqrt(6), rel=1e-4)  # below the limit
    assert updater.adam.param_groups[0]["lr"] == 0.5
    minimise(layer.bias.sum(), 0.5, updater)
    assert updater.adam.param_groups[0]["lr"] == pytest.approx(0.05)


def fit(folder, data=DATA, session=None, **settings):
    session = session or Session(folder, lambda _: None)
    return method.fit(data, Config(**{**SMALL, **settings}), session, 0)


def stages(**settings) -> list[str]:
    return [stage.name for stage in method.stages(Config(**settings), DATA.dims)]


def test_stages_are_those_that_the_settings_need():
    assert stages() == ["stage1", "stage2"]
    assert stages(phases="joint") == stages(adversarial_weight=0.0) == ["stage2"]
    costs = [
        estimate(method.stages(config := Config(**settings), replace(DATA.dims, channels=2048)), config, 1000)
        for settings in ({"adversarial_weight": 0.0}, {}, {"reconstruction": "images"})
    ]
    assert costs == sorted(costs)


def test_a_small_set_gets_the_epochs_of_a_large_one_in_the_second_stage_and_early_shares_are_compared():
    """60 epochs of 390 pictures are 183 steps; 1500 of them were 450 epochs and too many (docs/methods.md 3.5)."""
    dims = replace(DATA.dims, channels=1280, attributes=312)
    config = Config(**PRESETS["default"])
    ways = method.stages(config, dims)
    assert plan(ways, size(ways, config, 390, 1e9), 390) == {"stage1": 600, "stage2": 183}
    assert plan(ways, size(ways, config, 7057, 1e9), 7057) == {"stage1": 1654, "stage2": 3308}
    asked = make_recipe({"method": "sp-aen"}, {}, {})
    assert with_defaults(asked, {"method"}).snapshots == (0.05, 0.1, 0.25, 0.5, 1.0)
    named = make_recipe({"method": "sp-aen", "snapshots": [1.0]}, {}, {})
    assert list(with_defaults(named, {"method", "snapshots"}).snapshots) == [1.0]


def test_classification_only_trains_e_alone_with_the_same_start(tmp_path):
    """The paper's ablation: no critic, no reconstruction."""
    lines = []
    fit(tmp_path, session=Session(tmp_path, lines.append), adversarial_weight=0.0)
    assert {line["stage"] for line in lines} == {"embed"}
    assert set(next(line for line in lines if "step" in line)) == {"session", "stage", "step", "of", "rank"}


def test_the_papers_negative_is_any_wrong_class_of_a_step(monkeypatch):
    """Drawn numbers say which: at a margin of 0 only classes that score higher cost anything."""
    one = model(negatives="any", margin=0.0, dropout=0.0, batch=1000, adversarial_weight=0.0, rank_weight=3.0)
    count = int(SEEN.sum())
    draw = torch.rand(len(DATA.labels), count, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(one, "draw", torch.arange)
    monkeypatch.setattr(one.rng, "uniform", lambda *shape: draw.reshape(shape))
    scores = net(one.embed, features_of(one)) @ DATA.semantic[SEEN].T.astype(np.float64)
    loss = float(one.embed_step(0.0, joint=False)["rank"].detach())
    right = np.cumsum(SEEN)[DATA.labels] - 1
    hinges = []
    for row, label, numbers in zip(scores, right, draw.numpy(), strict=True):
        other = max((j for j in range(count) if j != label), key=numbers.__getitem__)
        hinges.append(max(0.0, row[other] - row[label]))
    assert 0 < np.count_nonzero(hinges) < len(hinges)
    assert loss == pytest.approx(3 * np.mean(hinges), rel=1e-4)


def test_joint_training_moves_all_four_networks():
    one = model(phases="joint")
    nets = (one.embed, one.keep, one.decoder, one.critic)
    before = [[p.clone() for p in net.parameters()] for net in nets]
    one.embed_step(0.0, joint=True)
    for net, old in zip(nets, before, strict=True):
        assert all(not torch.equal(a, b) for a, b in zip(net.parameters(), old, strict=True))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hidden": 0}, "hidden = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"dropout": 1.0}, "share below 1"),
        ({"decoder_channels": 12}, "multiple of 8"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(UsageError, match=told) as caught:
        Config(**settings)
    assert (caught.value.code, caught.value.exit_code) == ("E-RECIPE", 2)


# --- presets and recipes ---------------------------------------------------------------------------------------------

# The published code, by METHODS of docs/methods.md 3.3 and 3.4; and the paper where it differs.
CODE = {
    "scaling": "l2",
    "hidden": 1024,
    "dropout": 0.5,
    "phases": "two",
    "margin": 0.2,
    "negatives": "random",
    "rank_weight": 1000.0,
    "adversarial": "sigmoid",
    "adversarial_weight": 50.0,
    "penalty": 10.0,
    "critic_steps": 5,
    "pixel_weight": 0.03,
    "perceptual_weight": 3.0,
    "norm_weight": 2.0,
    "weight_decay": 5e-6,
    "clip": 10.0,
    "learning_rate": 1e-4,
    "drop_at": 0.5,
    "batch": 128,
    "stage1_steps": 200_000,
    "stage2_steps": 200_000,
}
PAPER = CODE | {
    "phases": "joint",
    "negatives": "any",
    "rank_weight": 1.0,
    "adversarial": "wasserstein",
    "adversarial_weight": 5.0,
    "feature_weight": 10.0,
    "pixel_weight": 0.1,
    "perceptual_weight": 10.0,
    "norm_weight": 0.0,
    "weight_decay": 0.0,
    "stage1_steps": 0,
}
PUBLISHED = {"code": CODE, "paper": PAPER}
RECIPES = sorted((Path(__file__).parents[3] / "train" / "recipes").glob("*/sp_aen_*.toml"))


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_presets_are_what_was_published(preset):
    config = Config(**PRESETS[preset])
    assert {name: getattr(config, name) for name in PUBLISHED[preset]} == PUBLISHED[preset]


def test_there_are_recipes_of_both_for_every_published_data_set():
    found = {(path.parent.name, path.stem) for path in RECIPES}
    assert found == set(product(("cub", "sun", "awa2", "apy"), ("sp_aen_code", "sp_aen_paper")))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_adds_pictures_to_what_was_published_and_nothing_else(path):
    recipe = make_recipe(read_recipe(path), {}, {})
    config = method_config(Config, PRESETS, recipe)
    assert config == Config(**PRESETS[recipe.preset], reconstruction="images")
    assert path.stem == f"sp_aen_{recipe.preset}"
    assert (recipe.backbone, recipe.seed, recipe.clamp_negative, recipe.unit_l2) == ("resnet101", 123, False, True)


# --- pictures --------------------------------------------------------------------------------------------------------


class FakePictures:
    """Pictures whose colour follows the class: (n, 128, 128, 3), and a comparator of one fixed convolution."""

    side = 128

    def __init__(self, labels=DATA.labels) -> None:
        rng = np.random.default_rng(3)
        colours = rng.integers(0, 256, (8, 2, 2, 3)).astype(np.uint8)
        self.levels = np.zeros((2 * len(labels), 128, 128, 3), np.uint8)
        self.levels[::2] = colours[labels].repeat(64, axis=1).repeat(64, axis=2)
        self.comparator = nn.Conv2d(3, 4, 8, 8).requires_grad_(requires_grad=False)
        self.asked = []

    def read(self, rows):
        self.asked += rows.tolist()
        return self.levels[rows]


@pytest.fixture(scope="module")
def with_pictures():
    return replace(DATA, pictures=FakePictures())


def test_rebuilding_pictures_of_features_is_refused(tmp_path):
    with pytest.raises(UsageError, match="needs photographs, and this data has features only") as caught:
        fit(tmp_path, reconstruction="images")
    assert (caught.value.code, caught.value.exit_code) == ("E-RECIPE", 2)


def test_picture_losses_are_the_mean_squares_of_levels_and_of_the_comparators_map(with_pictures):
    config = Config(**SMALL, reconstruction="images", pixel_weight=0.5, perceptual_weight=2.0)
    decoder = PictureDecoder(6, config, with_pictures.pictures, with_pictures.rows)
    embedding, rows = torch.rand(3, 6), torch.tensor([4, 0, 7])
    losses = decoder.losses(embedding, embedding, rows)
    rebuilt = decoder(embedding).detach()
    levels = torch.tensor(with_pictures.pictures.levels[2 * rows.numpy()]).permute(0, 3, 1, 2).float()
    pixels = np.mean((rebuilt.numpy().astype(np.float64) - levels.numpy()) ** 2)
    maps = [with_pictures.pictures.comparator(x).numpy().astype(np.float64) for x in (rebuilt, levels)]
    assert float(losses["pixels"].detach()) == pytest.approx(0.5 * pixels, rel=1e-4)
    assert float(losses["perceptual"].detach()) == pytest.approx(2.0 * np.mean((maps[0] - maps[1]) ** 2), rel=1e-4)
    shown = decoder.rebuild(embedding)
    assert (shown.dtype, tuple(shown.shape)) == (torch.uint8, (3, 128, 128, 3))
    np.testing.assert_allclose(shown.numpy(), rebuilt.permute(0, 2, 3, 1).clamp(0, 255).numpy(), atol=0.5001)
    assert not any("comparator" in key or "conv1" in key for key in decoder.state_dict())


def test_pictures_are_compared_where_the_training_computes(with_pictures):
    """On a card, too, where the backbone itself is not; here a device without numbers stands for it."""
    config = Config(**SMALL, reconstruction="images")
    with computing(torch.device("meta")):
        decoder = PictureDecoder(6, config, with_pictures.pictures, with_pictures.rows)
        losses = decoder.losses(torch.rand(3, 6), torch.rand(3, 6), torch.tensor([4, 0, 7], device="cpu"))
    assert {name: loss.device.type for name, loss in losses.items()} == {"pixels": "meta", "perceptual": "meta"}
    assert decoder._frozen[0].weight.device.type == "meta"
    assert with_pictures.pictures.comparator.weight.device == CPU


def test_held_out_pictures_are_shown_and_never_learned_from(with_pictures, tmp_path):
    files = {}
    session = Session(tmp_path, lambda _: None, keep=files.__setitem__)
    with_pictures.pictures.asked.clear()
    settings = {"reconstruction": "images", "sheet_pictures": 3}
    trained = fit(tmp_path, with_pictures, session, **settings)
    shown = held_out(with_pictures, Config(**settings), 0)
    rows = with_pictures.rows[shown].tolist()
    assert len(rows) == 3
    asked = with_pictures.pictures.asked
    assert asked[-3:] == rows
    assert not set(asked[:-3]) & set(rows)
    assert set(files) == {"reconstructions.png", "reconstructions.json"}
    with Image.open(io.BytesIO(files["reconstructions.png"])) as picture:
        canvas = np.asarray(picture)
    assert canvas.shape == (128, 4 * 256, 3)
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(canvas[:, 256 * place : 256 * place + 128], with_pictures.pictures.levels[row])
    assert (canvas[:, 3 * 256 :] == 255).all()
    figures = json.loads(files["reconstructions.json"])
    assert figures["rows"] == rows
    again = {}
    fit(tmp_path, with_pictures, Session(tmp_path, lambda _: None, keep=again.__setitem__), **settings)  # resumed
    assert again == files
    assert trained.head_rule == "rows"


def test_the_decoder_learns_to_rebuild(with_pictures):
    settings = {"learning_rate": 5e-3, "hidden": 64, "decoder_channels": 32, "batch": 8}
    one = SpAen(with_pictures, Config(**SMALL | settings, reconstruction="images", perceptual_weight=0.0), 0)
    losses = [float(one.keep_step(0.0)["pixels"].detach()) for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_figures_of_the_sheet_are_those_of_its_pixels():
    pictures = np.full((6, 128, 128, 3), 255, np.uint8)
    rebuilt = np.zeros_like(pictures)
    rebuilt[3] = 255
    files = sheet(pictures, rebuilt, np.arange(6))
    figures = json.loads(files["reconstructions.json"])
    assert figures["each"] == [1, 1, 1, 0, 1, 1]
    assert figures["mean_squared_error"] == pytest.approx(5 / 6)
    with Image.open(io.BytesIO(files["reconstructions.png"])) as picture:
        assert picture.size == (4 * 256, 2 * 128)


def test_the_cost_of_the_decoder_is_that_of_its_layers():
    counted = []
    decoder = FromScratch(16)
    for layer in decoder.layers:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(partial(count_products, counted))
    decoder(torch.zeros(1, 4096))
    assert multiply_adds(10, 16, 6) == sum(counted) + 10 * (6 + 4096)


def count_products(counted, layer, inputs, output):
    up = isinstance(layer, nn.ConvTranspose2d)
    positions = inputs[0][0, 0].numel() if up else output[0, 0].numel()
    counted.append(positions * layer.kernel_size[0] ** 2 * layer.in_channels * layer.out_channels)


def test_published_weights_are_taken_from_files_and_stay_as_they_are(with_pictures, tmp_path, monkeypatch):
    """A small stand-in for the inverter's widths: the true ones are 400 MB."""
    monkeypatch.setattr(pictures, "INVERTED", 64)
    monkeypatch.setattr(Inverter, "UP", ((4, 4), (6, 4), (4, 3), (3, 3), (3, 3), (3, 3)))
    monkeypatch.setattr(Inverter, "CONV", ((4, 6), (4, 4), (3, 3)))
    torch.manual_seed(0)
    inverter, comparator = Inverter(), CaffeNetConv5()
    save_file(inverter.state_dict() | {"other": torch.zeros(1)}, tmp_path / "inverter.safetensors")
    torch.save(comparator.state_dict(), tmp_path / "comparator.pth")
    config = Config(
        **SMALL,
        reconstruction="images",
        inverter_weights=str(tmp_path / "inverter.safetensors"),
        comparator_weights=str(tmp_path / "comparator.pth"),
    )
    one = SpAen(with_pictures, config, 0)
    one.keep_step(0.0)
    for key, value in one.decoder.picture.state_dict().items():
        assert torch.equal(value, inverter.state_dict()[key]), key
    levels = 255 * torch.rand(2, 3, 128, 128)
    np.testing.assert_array_equal(one.decoder._frozen[0](levels), comparator(levels).detach())
    assert comparator(levels).shape == (2, 256, 7, 7)
    assert one.decoder(torch.rand(2, 6)).shape == (2, 3, 128, 128)
    with pytest.raises(ArtefactError, match=r"E-WEIGHTS: .* does not hold the weights of the comparator: conv1"):
        SpAen(with_pictures, replace(config, comparator_weights=config.inverter_weights), 0)
    with pytest.raises(UsageError, match="E-WEIGHTS-FILE"):
        SpAen(with_pictures, replace(config, inverter_weights=str(tmp_path / "none.pth")), 0)


@pytest.mark.parametrize(
    ("side", "sizes"),
    # Caffe's own at 227 px, of pictures of 224; ours; and one where rounding down would lose a row in both pools
    [(224, (227, 55, 27, 27, 13, 13)), (128, (131, 31, 15, 15, 7, 7)), (125, (128, 30, 15, 15, 7, 7))],
)
def test_the_comparators_maps_have_caffes_sizes(monkeypatch, side, sizes):
    """Padded, conv1, pool1, conv2, pool2, conv5; sizes worked out by hand: up in pooling, down in convolutions."""
    found = []

    def pooled(x, *_, **options):
        found.extend([x.shape[-1], (y := max_pool2d(x, *_, **options)).shape[-1]])
        return y

    max_pool2d = nn.functional.max_pool2d
    monkeypatch.setattr(nn.functional, "max_pool2d", pooled)
    comparator = CaffeNetConv5()
    comparator.conv1.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].shape[-1]))
    found.append(comparator(torch.zeros(1, 3, side, side)).shape[-1])
    assert tuple(found) == sizes


def test_the_comparator_is_padded_with_the_mean_and_looks_at_the_last_row():
    """Of pictures that are CaffeNet's mean, padding adds nothing: conv1 sees zeros everywhere."""
    comparator = CaffeNetConv5()
    seen = []
    comparator.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean = torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1).expand(1, 3, 128, 128)  # RGB
    before = comparator(mean)
    assert not seen[0].any()
    other = mean.clone()
    other[..., -1, -1] = 255
    assert not torch.equal(comparator(other), before)


def test_the_published_inverter_has_the_published_layers():
    with torch.device("meta"):
        inverter = Inverter()
    up = [layer.out_channels for layer in inverter.up]
    conv = [layer.out_channels for layer in inverter.conv]
    assert [up[0], conv[0], up[1], conv[1], up[2], conv[2], *up[3:]] == [256, 512, 256, 256, 128, 128, 64, 32, 3]
    assert [tuple(layer.weight.shape) for layer in inverter.dense] == [(4096, 4096)] * 3
    with torch.device("meta"):
        assert inverter(torch.zeros(1, 4096, device="meta")).shape == (1, 3, 128, 128)
