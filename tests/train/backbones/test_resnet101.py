"""ResNet-101 against torchvision's published layout, an independent forward pass, and a server that misbehaves."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torch.nn import functional

from zsl_runtime.errors import SystemProblem
from zsl_runtime.pixels.pixels import PixelSpec
from zsl_train.backbones import build, rebuild, resnet101
from zsl_train.backbones.resnet101 import ResNet101


def published_layout() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of torchvision's resnet101 weight files, written out by rule (torchvision 0.13 and later)."""
    layout: dict[str, tuple[int, ...]] = {}

    def conv(key: str, out: int, channels: int, kernel: int) -> None:
        layout[f"{key}.weight"] = (out, channels, kernel, kernel)

    def norm(key: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            layout[f"{key}.{part}"] = (channels,)
        layout[f"{key}.num_batches_tracked"] = ()

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (23, 256), (3, 512)], start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            conv(f"{at}.conv1", width, channels, 1)
            norm(f"{at}.bn1", width)
            conv(f"{at}.conv2", width, width, 3)
            norm(f"{at}.bn2", width)
            conv(f"{at}.conv3", 4 * width, width, 1)
            norm(f"{at}.bn3", 4 * width)
            if block == 0:
                conv(f"{at}.downsample.0", 4 * width, channels, 1)
                norm(f"{at}.downsample.1", 4 * width)
            channels = 4 * width
    layout["fc.weight"] = (1000, 2048)
    layout["fc.bias"] = (1000,)
    return layout


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights of sane scale with statistics unlike the initial ones, so that every part of the arithmetic shows."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in published_layout().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(5)
        elif key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(shape, generator=draw)
        elif "conv" in key or "downsample.0" in key:
            state[key] = torch.randn(shape, generator=draw) / (shape[1] * shape[2] * shape[3]) ** 0.5
        else:
            state[key] = 0.1 * torch.randn(shape, generator=draw) + (0.8 if key.endswith("weight") else 0.0)
    return state


def reference_map(state: dict[str, torch.Tensor], pictures: np.ndarray) -> np.ndarray:
    """The last map in float64, from the description of the network and not from our modules: (N, R, V)."""
    state = {key: value.double() for key, value in state.items()}

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        scale = state[f"{key}.weight"] / torch.sqrt(state[f"{key}.running_var"] + 1e-5)
        shift = state[f"{key}.bias"] - scale * state[f"{key}.running_mean"]
        return x * scale[:, None, None] + shift[:, None, None]

    fractions = pictures.astype(np.float64) / 255
    normal = (fractions - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy(normal).permute(0, 3, 1, 2)
    x = norm(functional.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0)
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate([3, 4, 23, 3], start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = norm(functional.conv2d(x, state[f"{at}.conv1.weight"]), f"{at}.bn1").clamp(min=0)
            y = functional.conv2d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1)
            y = norm(y, f"{at}.bn2").clamp(min=0)
            y = norm(functional.conv2d(y, state[f"{at}.conv3.weight"]), f"{at}.bn3")
            if block == 0:
                x = norm(functional.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            x = (x + y).clamp(min=0)
    return x.flatten(2).transpose(1, 2).numpy()


@pytest.fixture(scope="module")
def weights():
    return random_weights(1)


def test_keys_and_shapes_are_torchvisions():
    layout = published_layout()
    assert len(layout) == 626
    with torch.device("meta"):
        own = ResNet101(224)
    expected = {key: shape for key, shape in layout.items() if not key.startswith("fc.")}
    assert {key: tuple(value.shape) for key, value in own.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in own.parameters()) == 42_500_160


@pytest.mark.parametrize(("size", "regions"), [(224, 49), (448, 196)])
def test_sizes_and_regions(size, regions):
    with torch.device("meta"):
        backbone = ResNet101(size)
        out = backbone.eval().feature_map(torch.empty(2, 3, size, size))
    assert tuple(out.shape) == (2, 2048, size // 32, size // 32)
    assert (backbone.regions, backbone.channels) == (regions, 2048)
    assert backbone.pixels == PixelSpec(size, size)


def test_a_weight_file_loads_and_the_arithmetic_is_torchvisions(tmp_path, weights):
    # As old files have it: without counters.
    torch.save({k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}, tmp_path / "r.pth")
    backbone = build("resnet101", tmp_path / "r.pth")
    # Convolutions do not care about the side; a small odd one is quick and meets every padding.
    pictures = np.random.default_rng(0).integers(0, 256, (1, 101, 101, 3), dtype=np.uint8)
    with torch.inference_mode():
        got = backbone(torch.from_numpy(pictures)).numpy()
    expected = reference_map(weights, pictures)
    scale = np.abs(expected).max()
    assert expected.std() > 0.01 * scale  # the comparison is about something
    np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=1e-5)
    again = rebuild("resnet101", 224, backbone.state_dict())
    assert again.weights_sha256 == backbone.weights_sha256
    with torch.inference_mode():
        assert np.array_equal(again(torch.from_numpy(pictures)).numpy(), got)


CONTENT = b"not really weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    def __init__(self, *args, promised: int, status: int, asked: list[str]) -> None:
        self.promised, self.status, self.asked = promised, status, asked
        super().__init__(*args)

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(self.promised))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def serve(monkeypatch, tmp_path):
    servers = []

    def start(*, name: str, promised: int = len(CONTENT), status: int = 200) -> list[str]:
        asked: list[str] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, promised=promised, status=status, asked=asked))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(resnet101, "SERVER", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(resnet101, "PUBLISHED", {"IMAGENET1K_V1": name})
        return asked

    monkeypatch.setenv("ZSL_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_official_file_is_downloaded_once_and_checked(serve, tmp_path):
    name = f"resnet101-{DIGEST[:8]}.pth"
    asked = serve(name=name)
    for _ in range(2):
        path = ResNet101.find_weights(None)
        assert path == tmp_path / "weights" / name
        assert path.read_bytes() == CONTENT
    assert asked == [f"/{name}"]
    assert [entry.name for entry in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "resnet101-00000000.pth"}, "does not begin with 00000000"),
        ({"name": f"resnet101-{DIGEST[:8]}.pth", "status": 404}, "404"),
        ({"name": f"resnet101-{DIGEST[:8]}.pth", "promised": len(CONTENT) - 7}, "does not begin with"),
    ],
)
def test_a_wrong_answer_is_an_error_and_leaves_nothing(serve, tmp_path, options, reason):
    serve(**options)
    with pytest.raises(SystemProblem) as caught:
        ResNet101.find_weights("IMAGENET1K_V1")
    assert caught.value.code == "E-DOWNLOAD"
    assert reason in caught.value.message
    assert "--weights FILE" in caught.value.message
    assert not list((tmp_path / "weights").iterdir())


def test_offline_is_one_line_that_says_what_to_do(serve, monkeypatch, tmp_path):
    serve(name="resnet101-00000000.pth")
    monkeypatch.setattr(resnet101, "SERVER", "http://127.0.0.1:9/")  # nobody listens on the discard port
    with pytest.raises(
        SystemProblem, match=r"E-DOWNLOAD: could not fetch http://127.0.0.1:9/.*--weights FILE"
    ) as caught:
        build("resnet101")
    assert "this needs a network: try again, or without one take --backbone efficientnet_lite2" in caught.value.message
    assert not list((tmp_path / "weights").iterdir())


def test_a_cache_folder_that_cannot_be_made_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "file"))
    with pytest.raises(SystemProblem, match=r"E-SYSTEM: could not keep the downloaded weights .*Not a directory"):
        build("resnet101")


def test_the_early_map_is_that_of_the_first_two_stages():
    with torch.device("meta"):
        network = ResNet101(224)
        assert network.early_map(torch.zeros(2, 3, 128, 128)).shape == (2, 512, 16, 16)


def test_published_names_carry_their_hash():
    assert resnet101.PUBLISHED == {
        "IMAGENET1K_V1": "resnet101-63fe2227.pth",
        "IMAGENET1K_V2": "resnet101-cd907fc2.pth",
    }
    assert resnet101.SERVER.startswith("https://download.pytorch.org/")
