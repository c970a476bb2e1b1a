"""Distances between sets of tiles: zero for equal sets, and growing with damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from cases import run_program
from safron.engine.evaluation.cli import main
from safron.engine.evaluation.texture_distance import (
    frechet_distance,
    kernel_distance,
    standardize,
    texture_features,
)
from safron.engine.evaluation.tile_sets import find_tiles
from safron.io.errors import BadInput
from safron.io.slides.reader import Pixels

SIDE = 64


def tissue(seed: int, count: int = 40, *, blur: float = 0, tint: float = 0, grain: float = 12) -> list[Any]:
    """Tiles of one kind of picture: dark spots on pink, with grain."""
    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(count):
        spots = np.asarray(cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), 3))
        mask = (spots / spots.std() > 0.7)[..., None]
        values = np.where(mask, [110, 60, 140], [225, 160, 195]) + rng.normal(0, 8, 3)
        values = values + grain * rng.standard_normal((SIDE, SIDE, 1)) + [tint, 0, -tint]
        image = np.clip(values, 0, 255).astype(np.uint8)
        tiles.append(np.asarray(cv2.GaussianBlur(image, (0, 0), blur)) if blur else image)
    return tiles


def texture(real: Any, fake: Any) -> tuple[float, float]:
    """Both distances, of tiles or of their features."""
    first, second = standardize(
        *(texture_features(tiles) if isinstance(tiles, list) else tiles for tiles in (real, fake))
    )
    return frechet_distance(first, second), kernel_distance(first, second)[0]


def save(folder: Path, tiles: list[Any], suffix: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for index, tile in enumerate(tiles):
        cv2.imwrite(str(folder / f"{index:04}{suffix}"), tile[:, :, ::-1])
    return folder


def test_features_are_fifty_finite_numbers() -> None:
    features = texture_features([*tissue(0, 3), np.full((SIDE, SIDE, 3), 255, np.uint8)])
    assert features.shape == (4, 50)
    assert np.isfinite(features).all()
    assert features[:, 12:42].sum(axis=1) == pytest.approx(3), "three histograms"


def test_equal_sets_have_no_distance() -> None:
    tiles = tissue(0)
    frechet, kernel = texture(tiles, tiles)
    assert frechet == pytest.approx(0, abs=1e-4)
    assert kernel <= 0, "unbiased: equal sets lie nearer than chance, since each tile meets itself"


def test_more_damage_is_further_away() -> None:
    real = texture_features(tissue(0, 80))
    alike = texture(real, tissue(1, 80))
    for changes in (
        [{"blur": 0.6}, {"blur": 1.5}],
        [{"tint": 8}, {"tint": 25}],
        [{"grain": 16}, {"grain": 24}],
    ):
        little, much = (texture(real, tissue(1, 80, **change)) for change in changes)
        for measure in (0, 1):  # Frechet and kernel
            assert alike[measure] < little[measure] < much[measure], (measure, changes)


def test_distances_of_known_normals() -> None:
    """Two normals that differ by 2 in one of four directions, and by a factor 3 in spread."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20_000, 4)), rng.standard_normal((20_000, 4))
    assert frechet_distance(a, b) == pytest.approx(0, abs=0.01)
    assert frechet_distance(a, b + np.array([2, 0, 0, 0])) == pytest.approx(4, abs=0.15)
    assert frechet_distance(a, 3 * b) == pytest.approx(4 * (3 - 1) ** 2, rel=0.05)
    mean, spread = kernel_distance(a[:500], b[:500])
    assert abs(mean) < 3 * spread


def test_few_rows_and_many_features_give_the_same_distance_both_ways() -> None:
    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((9, 12)), 2 * rng.standard_normal((11, 12)) + 1
    wide = frechet_distance(real, fake)
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    cross = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    apart = ((real.mean(axis=0) - fake.mean(axis=0)) ** 2).sum()
    assert wide == pytest.approx(apart + np.trace(first) + np.trace(second) - 2 * cross, rel=1e-5)


def test_the_kernel_distance_is_unbiased() -> None:
    """Over many pairs of small equal sets its mean is zero, where the Frechet distance's is not."""
    rng = np.random.default_rng(1)
    pairs = [(rng.standard_normal((16, 6)), rng.standard_normal((16, 6))) for _ in range(60)]
    kernels = [kernel_distance(a, b)[0] for a, b in pairs]
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / np.sqrt(60)
    assert np.mean([frechet_distance(a, b) for a, b in pairs]) > 0.5


def test_files_that_systems_and_editors_leave_are_passed_over(tmp_path: Path) -> None:
    image = np.full((SIDE, SIDE, 3), 120, np.uint8)
    for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    assert [path.name for path, _, _ in find_tiles(tmp_path, size=SIDE, most=9).places] == ["a.png"]


def test_tiles_are_tissue_only(tmp_path: Path) -> None:
    image = np.full((4 * SIDE, 3 * SIDE, 3), 245, np.uint8)
    image[SIDE : 2 * SIDE, : 2 * SIDE] = 120
    cv2.imwrite(str(tmp_path / "a.png"), image)
    found = find_tiles(tmp_path, size=SIDE, most=99)
    assert [(y, x) for _, y, x in found.places] == [(SIDE, 0), (SIDE, SIDE)]
    assert all((tile == 120).all() for tile in found)
    assert len(find_tiles(tmp_path, size=SIDE, most=1)) == 1


def test_a_choice_of_tiles_is_the_same_each_time(tmp_path: Path) -> None:
    folder = save(tmp_path / "f", tissue(0, 9))
    found, again = (find_tiles(folder, size=SIDE, most=99) for _ in range(2))
    chosen = [found.take(4, seed=seed).places for seed in range(9)]
    np.random.default_rng(
        5
    ).random()  # whatever else draws numbers, and in whatever order seeds are asked for
    assert [again.take(4, seed=seed).places for seed in reversed(range(9))] == chosen[::-1]
    assert len({*chosen}) > 1
    for places in chosen:
        assert len({*places}) == 4
        assert list(places) == [place for place in found.places if place in places], "in their order"
    whole = dict(zip(found.places, found, strict=True))
    for place, tile in zip(chosen[0], found.take(4, seed=0), strict=True):
        assert np.array_equal(tile, whole[place])


def test_each_place_is_as_likely_as_any_other(tmp_path: Path) -> None:
    """A large image, an empty one and a small one behind it: each has its share, whatever comes first."""
    rng = np.random.default_rng(0)
    for name, rows, grey in (("a", 20, 120), ("b", 10, 250), ("c", 5, 120)):
        image = np.full((rows * 16, 20 * 16, 3), grey, np.uint8)
        image[rng.random((rows, 20)).repeat(16, 0).repeat(16, 1) < 0.3] = 250
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    all_of_them = find_tiles(tmp_path, size=16, most=9999).places
    shares = {name: sum(path.stem == name for path, _, _ in all_of_them) for name in "abc"}
    assert shares["a"] > 250
    assert shares["b"] == 0
    assert shares["c"] > 50
    times = dict.fromkeys(all_of_them, 0)
    for seed in range(20):
        chosen = find_tiles(tmp_path, size=16, most=50, seed=seed).places
        assert len(chosen) == 50
        assert list(chosen) == sorted(chosen), "read in order"
        for place in chosen:
            times[place] += 1
    of_c = sum(count for (path, _, _), count in times.items() if path.stem == "c")
    expected = 1000 * shares["c"] / len(all_of_them)
    assert abs(of_c - expected) < 4 * np.sqrt(expected)
    assert max(times.values()) < 12


def test_as_many_tiles_are_looked_for_as_the_command_was_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = save(tmp_path / "real", tissue(0, 12)), save(tmp_path / "fake", tissue(1, 12))
    asked = []

    def watched(*args: Any, **options: Any) -> Any:
        asked.append((options["most"], options["seed"]))
        return find_tiles(*args, **options)

    monkeypatch.setattr("safron.engine.evaluation.tile_sets.find_tiles", watched)
    for tiles, seed, taken in ((10, 0, 10), (10, 1, 10), (30_000, 2, 12)):
        args = ("--texture", "--size", str(SIDE), "--tiles", str(tiles), "--seed", str(seed))
        outcome = run_program(capfd, main, "fid", real, fake, *args)
        assert f"{taken} tiles of 64 px" in outcome.out
    assert asked == [(10, 0), (10, 0), (10, 1), (10, 1), (30_000, 2), (30_000, 2)]


def test_jpeg_makes_two_sets_alike(tmp_path: Path) -> None:
    """The same pictures, one set stored as JPEG: far apart as they are, near once both are coded."""
    tiles = tissue(0, 60)
    plain = save(tmp_path / "plain", tiles)
    coded = save(tmp_path / "coded", tissue(2, 60), ".jpg")
    raw, both = (
        texture(*(list(find_tiles(folder, size=SIDE, most=99, jpeg=jpeg)) for folder in (plain, coded)))
        for jpeg in (None, 50)
    )
    assert both[1] < raw[1]


def test_without_weights_the_command_says_what_it_measures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safron.engine.evaluation.encoder.is_installed", lambda: False)
    real, fake = save(tmp_path / "real", tissue(0)), save(tmp_path / "fake", tissue(1, 30, tint=20))
    outcome = run_program(
        capfd, main, "fid", real, fake, "--size", str(SIDE), "--report", tmp_path / "r.json"
    )
    assert outcome.code == 0
    assert "no --weights: measuring texture distances, which are not FID and KID" in outcome.err
    assert "30 tiles for 50 features" in outcome.err
    assert "texture Frechet" in outcome.out
    assert "30 tiles of 64 px of each set; weight-free; not FID or KID" in outcome.out
    assert not any(line.startswith(("FID", "KID")) for line in outcome.out.splitlines())
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["tiles"], report["weights_sha256"], report["jpeg"]) == (30, None, None)
    assert report["measures"][0][1] > 0


@pytest.mark.parametrize("layout", ["beside", "glands", "two folders", "two names"])
def test_masks_of_training_pairs_are_not_tissue(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], layout: str
) -> None:
    """The same figures with masks in the folder as without, and a line that says how many were left out."""
    tiles, mask = tissue(0, 12), np.ones((SIDE, SIDE), np.uint8)
    alone, pairs = save(tmp_path / "alone", tiles), tmp_path / "pairs"
    save(pairs if layout != "two folders" else pairs / "images", tiles)
    for index in range(12):
        name = {
            "beside": f"{index:04}.mask.png",
            "glands": f"{index:04}.gland.png",
            "two folders": f"masks/{index:04}.png",
            "two names": f"{index:04}_anno.bmp",
        }[layout]
        (pairs / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(pairs / name), mask)
    args = ("--texture", "--size", str(SIDE), "--report", tmp_path / "r.json")
    outcome = run_program(capfd, main, "fid", pairs, alone, *args)
    assert outcome.code == 0
    assert f"{pairs}: 12 masks of training pairs are left out" in outcome.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["masks_left_out"] == [12, 0]
    assert report["measures"][0][1] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("image", "mask"),
    [("x.png", "x.mask.png"), ("images/x.png", "masks/x.png"), ("x.webp", "x.gland.png")],
    ids=["beside", "two folders", "glands"],
)
def test_training_and_evaluation_agree_on_what_a_mask_is(tmp_path: Path, image: str, mask: str) -> None:
    pytest.importorskip("torch")
    from safron.io.pair_names import find_masks
    from safron.training.data.images import list_pairs

    for name in (image, mask):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = [pair[1:] for pair in list_pairs(tmp_path, "ebhi" if ".gland" in mask else "pairs")]
    assert listed == [(tmp_path / image, tmp_path / mask)]
    assert find_masks(listed[0]) == {tmp_path / mask}


@pytest.mark.parametrize("channels", [2, 4], ids=["grey", "colour"])
def test_transparent_pixels_are_white(tmp_path: Path, channels: int) -> None:
    """What was not scanned is black under alpha 0 in many exports, and would count as tissue."""
    image = np.full((2 * SIDE, SIDE, channels), 120, np.uint8)
    image[:SIDE], image[SIDE:, :, -1] = 0, 255
    PIL = pytest.importorskip("PIL.Image")
    PIL.fromarray(image).save(tmp_path / "a.png")
    with Pixels(tmp_path / "a.png") as pixels:
        read = pixels.read(0, 0, 2 * SIDE, SIDE)
    assert (read[:SIDE] == 255).all()
    assert (read[SIDE:] == 120).all()
    assert [(y, x) for _, y, x in find_tiles(tmp_path, size=SIDE, most=9).places] == [(SIDE, 0)]


# With an encoder


def encoder(path: Path, kind: str = "plain") -> Path:
    """A small TorchScript encoder: eight means of random convolutions."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchmetrics")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        torch.jit.script(Encoders()[kind]).save(str(path))
    return path


def Encoders() -> dict[str, Any]:
    import torch
    from torch import Tensor, nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 5, stride=2)

        def forward(self, tiles: Tensor) -> Tensor:
            return torch.relu(self.conv(tiles.float() / 127.5 - 1.0)).mean(dim=(2, 3))

    class Asked(Plain):
        def forward(self, tiles: Tensor, return_features: bool = False) -> Tensor:
            made = torch.relu(self.conv(tiles.float() / 127.5 - 1.0)).mean(dim=(2, 3))
            return made if return_features else made[:, :2]

    class Wants(Plain):
        def forward(self, tiles: Tensor) -> Tensor:
            return self.conv(tiles)  # no bytes

    class Maps(Plain):
        def forward(self, tiles: Tensor) -> Tensor:
            return self.conv(tiles.float())  # no features

    class Fails(Plain):
        def forward(self, tiles: Tensor) -> Tensor:
            return tiles.float().mean(dim=(2, 3)) * float("nan")

    return {"plain": Plain(), "asked": Asked(), "wants": Wants(), "maps": Maps(), "fails": Fails()}


def test_with_weights_the_command_measures_fid_and_kid(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = encoder(tmp_path / "encoder.pt", "asked")
    real = save(tmp_path / "real", tissue(0))
    found = {}
    for name, tiles in {"same": tissue(0), "alike": tissue(1), "tinted": tissue(1, tint=25)}.items():
        fake = save(tmp_path / name, tiles)
        args = ("--size", str(SIDE), "--weights", weights, "--report", tmp_path / "r.json")
        outcome = run_program(capfd, main, "fid", real, fake, *args)
        assert (outcome.code, outcome.err) == (0, "")
        _, first, second, *_ = outcome.out.splitlines()
        assert first.startswith("FID ")
        assert second.startswith("KID ")
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["dimensions"] == 8
        assert report["weights_sha256"][:12] in outcome.out
        found[name] = report["measures"][0][1]
    assert found["same"] == pytest.approx(0, abs=1e-6)
    assert found["same"] < found["alike"] < found["tinted"]


def test_the_library_and_our_own_arithmetic_agree() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchmetrics")
    from safron.engine.evaluation.fid import frechet, kernel

    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((300, 12)), 1.3 * rng.standard_normal((300, 12)) + 0.2
    tensors = torch.from_numpy(real), torch.from_numpy(fake)
    assert frechet(*tensors) == pytest.approx(frechet_distance(real, fake), rel=1e-6)
    theirs, spread = kernel(*tensors, subset=150)
    assert theirs == pytest.approx(kernel_distance(real, fake)[0], abs=spread)
    assert kernel(*tensors, subset=150) == (theirs, spread)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("wants", "does not take uint8 tiles"),
        ("maps", "must return features [n, d]"),
        ("fails", "returns features that are not finite"),
    ],
)
def test_an_encoder_of_another_kind_is_refused(tmp_path: Path, kind: str, says: str) -> None:
    path = encoder(tmp_path / "e.pt", kind)
    from safron.engine.evaluation.fid import deep_distances

    with pytest.raises(BadInput) as error:
        deep_distances(tissue(0, 8), tissue(1, 8), path, subset=4)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cuda:99", "foo", "meta", "mps:x"])
def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], device: str
) -> None:
    weights, real = encoder(tmp_path / "e.pt"), save(tmp_path / "real", tissue(0, 8))
    args = (real, save(tmp_path / "fake", tissue(1, 8)), "--size", str(SIDE), "--device", device)
    outcome = run_program(capfd, main, "fid", *args, "--weights", weights)
    assert outcome.code == 2
    assert outcome.error.startswith(f"safron-eval: error: --device {device}: PyTorch cannot compute there (")
    for without in ((), ("--texture",)):
        outcome = run_program(capfd, main, "fid", *args, *without)
        assert outcome.code == 2
        assert f"--device {device}: only an encoder of --weights runs there" in outcome.error


def test_a_set_is_not_compared_with_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each tile would meet itself, which brings the kernel distance below nothing."""
    real, part = save(tmp_path / "real", tissue(0, 9)), tmp_path / "part"
    (tmp_path / "link").symlink_to(real)
    part.mkdir()
    for file in sorted(real.iterdir())[:8]:
        (part / file.name).symlink_to(file)
    args = ("--size", str(SIDE), "--texture")
    for same in (real, tmp_path / "link", part):
        outcome = run_program(capfd, main, "fid", real, same, *args)
        assert outcome.code == 2
        assert f"{same}: all of it is in {real}, too, and a set has no distance from itself" in outcome.error
    cv2.imwrite(str(part / "new.png"), tissue(1, 1)[0])
    outcome = run_program(capfd, main, "fid", real, part, *args)
    assert outcome.code == 0
    assert f"{part}: shares 8 images with REAL: the distance is too small" in outcome.err


def test_a_set_that_is_missing_is_told_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    real = save(tmp_path / "real", tissue(0, 1))
    outcome = run_program(capfd, main, "fid", real, tmp_path / "none", "--size", "4096")
    assert "none: there is no such file or folder" in outcome.error


def test_a_seed_below_zero_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run_program(capfd, main, "fid", tmp_path, tmp_path, "--seed", "-1")
    assert outcome.code == 2
    assert "'--seed': -1 is not in the range x>=0" in outcome.error


def test_a_file_that_is_not_an_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from safron.engine.evaluation.fid import load_encoder

    with pytest.raises(BadInput, match="no such file"):
        load_encoder(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no weights")
    import sys

    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(
        BadInput, match="not a TorchScript file; for torch-fidelity's InceptionV3 weights run pip"
    ):
        load_encoder(tmp_path / "text.pt")


def test_plain_weights_go_to_torch_fidelitys_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its extractor is stood in for: it takes a name, the features asked for and the file, and gives a tuple."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchmetrics")
    import sys
    import types

    class Extractor(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, name: str, wanted: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert wanted == ["2048"]
            self.scale = torch.load(feature_extractor_weights_path, weights_only=True)["scale"]

        def forward(self, tiles: Any) -> tuple[Any]:
            return (tiles.float().mean(dim=(2, 3)) * self.scale,)

    home = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    home.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, home.__name__, home)
    torch.save({"scale": torch.tensor(2.0)}, tmp_path / "w.pth")
    from safron.engine.evaluation.fid import deep_distances, load_encoder

    tiles: npt.NDArray[Any] = np.stack(tissue(0, 8))
    features = load_encoder(tmp_path / "w.pth")(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    np.testing.assert_allclose(features, 2 * tiles.mean(axis=(1, 2)), rtol=1e-4)
    assert deep_distances(list(tiles), list(tiles), tmp_path / "w.pth", subset=4).fid < 1e-6
    torch.save({"other": torch.tensor(2.0)}, tmp_path / "bad.pth")
    with pytest.raises(BadInput, match="neither a TorchScript file nor"):
        load_encoder(tmp_path / "bad.pth")
