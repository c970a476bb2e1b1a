"""Is a generator seamless by construction, trained reproducibly, and the same one after export?"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cases import run_program
from safron.engine.generator.model import load_model
from safron.io.errors import BadInput
from safron.training import cli
from safron.training.config.data_sets import DataFacts
from safron.training.config.settings import (
    GLASS,
    PRESETS,
    TrainConfig,
    config_from_json,
    override,
    preset,
    read_overrides,
)
from safron.training.data import Pairs, batches, draw_batch, draw_noise, ebhi, split
from training_cases import count_macs, one_line, pair

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")
pytest.importorskip("onnx", reason="export needs onnx: pip install 'safron[train]'")

from safron.training import discriminators, export, networks, sample_sheet, train  # noqa: E402  (these import torch)
from safron.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from safron.training.distributed import choose_half  # noqa: E402

SEAMLESS = PRESETS["safron-seamless"].model
TINY = replace(preset("safron-seamless", "tiny"), steps=6, bfloat16=False)
EBHI = DataFacts(data_set="ebhi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn pairs of two slides: pink stroma, purple glands, one white corner."""
    path = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for name, corner in (("A-1-400-001", 80), ("A-1-400-002", 40), ("B-1-400-001", 60)):
        image = np.full((224, 224, 3), (190, 120, 160), np.uint8)
        mask = np.zeros((224, 224), np.uint8)
        for center in ((60, 150), (150, 60), (170, 170)):
            cv2.circle(mask, center, 30, 255, -1)
        image[mask > 0] = (110, 60, 130)
        image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        image[:corner, :corner] = 250
        cv2.imwrite(str(path / f"{name}.webp"), image[..., ::-1])
        cv2.imwrite(str(path / f"{name}.gland.png"), mask)
    return path


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Pairs:
    return ebhi.prepare(folder)


def fresh(config: TrainConfig = TINY) -> Any:
    torch.manual_seed(0)
    return networks.make_generator(config.model).eval()


def window(side: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.digitize(draw_noise(rng, side, side, (8,))[0], [-1.0, 0.3]).astype(np.uint8)
    return labels, draw_noise(rng, side, side, SEAMLESS.noise_scales)


def render(network: Any, labels: Any, noise: Any) -> Any:
    """One call of the network: float32 [y, x, 3], RGB in 0..255."""
    with torch.no_grad():
        image = network(
            networks.one_hot_labels(torch.from_numpy(labels)[None], 3), torch.from_numpy(noise)[None]
        )
    return networks.to_rgb(image)[0].numpy()


# The network's promises


def test_a_pixel_depends_on_its_context_and_on_nothing_else() -> None:
    # The smallest patch, 4 x 4, somewhere inside a canvas: the gradient must end where its context ends.
    network = fresh()
    labels, noise = window(104)
    given = torch.from_numpy(noise)[None].requires_grad_()
    one_hot = networks.one_hot_labels(torch.from_numpy(labels)[None], 3).requires_grad_()
    out = network(one_hot, given)
    assert out.shape == (1, 3, 64, 64)
    out[..., 28:32, 28:32].abs().sum().backward()
    for tensor in (given, one_hot):
        assert tensor.grad is not None
        touched = tensor.grad.abs().sum(dim=(0, 1)) > 0
        rows, columns = (torch.nonzero(touched.any(dim=axis)).flatten() for axis in (1, 0))
        assert (int(rows[0]), int(rows[-1])) == (28, 28 + 43)
        assert (int(columns[0]), int(columns[-1])) == (28, 28 + 43)


def test_patches_equal_the_canvas_rendered_whole() -> None:
    labels, noise = window(92 + 40)
    canvas = labels[20:-20, 20:-20]
    wide = np.pad(canvas, 20, mode="edge")
    network = fresh()
    whole = render(network, wide, noise)
    stitched = sample_sheet.stitch(network, wide, noise, TINY, tile=44)
    assert np.abs(whole - stitched).max() <= 0.001
    assert whole.std() > 5


def test_costs_of_both_presets() -> None:
    with torch.device("meta"):
        seamless = networks.make_generator(SEAMLESS)
        macs = count_macs(seamless, torch.zeros(1, 3, 296, 296), torch.zeros(1, 5, 296, 296))
        assert 2.5e9 < macs <= 3.0e9
        paper = networks.make_generator(PRESETS["safron"].model).eval()
        assert count_macs(paper, torch.zeros(1, 3, 296, 296)) == pytest.approx(28.22e9, rel=1e-3)
        assert sum(p.numel() for p in paper.parameters()) == pytest.approx(54.8e6, rel=1e-3)


def test_spectral_convolution_has_unit_norm() -> None:
    torch.manual_seed(0)
    layer = discriminators.SpectralConv(3, 8, 3, 1)
    for _ in range(50):
        layer(torch.zeros(1, 3, 4, 4))
    matrix = layer.weight.detach().flatten(1)
    largest = torch.linalg.matrix_norm(matrix, ord=2)
    estimate = torch.dot(layer.left, matrix @ torch.nn.functional.normalize(matrix.T @ layer.left, dim=0))
    assert estimate == pytest.approx(largest.item(), rel=1e-3)


# The data


def test_prepared_pairs(pairs: Pairs) -> None:
    assert [image.shape for image in pairs.images] == [(224, 299, 3)] * 3
    assert set(np.unique(np.stack(pairs.labels))) == {0, 1, 2}
    assert pairs.slides == ("a-1", "a-1", "b-1")
    assert (np.stack(pairs.labels)[:, :30, :40] == 0).all()
    glass = pairs.images[0][5:60, 5:80].reshape(-1, 3)
    assert np.abs(glass.mean(axis=0) - GLASS).max() < 2
    sure = np.stack(pairs.trust)[:, 0] >= 1
    assert abs(float(np.stack(pairs.cues)[:, 0][sure].astype(float).mean())) < 0.1


def test_slides_are_never_split(pairs: Pairs) -> None:
    training, held_out = split(pairs, 0.5)
    assert set(training.slides).isdisjoint(held_out.slides)
    assert len(training) + len(held_out) == len(pairs)


def test_cache_gives_equal_pairs(
    folder: Path, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ebhi.prepare(folder, tmp_path)
    assert len(list(tmp_path.glob("pairs-*.npz"))) == 1
    again = ebhi.prepare(folder, tmp_path)
    assert np.array_equal(np.stack(again.cues), np.stack(pairs.cues))
    assert again.slides == pairs.slides
    monkeypatch.setattr(ebhi, "PREPARATION", ebhi.PREPARATION + 1)
    ebhi.prepare(folder, tmp_path)
    assert len(list(tmp_path.glob("pairs-*.npz"))) == 2


def test_batches_depend_on_seed_and_step_alone(pairs: Pairs) -> None:
    first, same, other = (draw_batch(pairs, TINY, step) for step in (3, 3, 4))
    assert np.array_equal(first.noise, same.noise)
    assert np.array_equal(first.images, same.images)
    assert not np.array_equal(first.noise, other.noise)
    assert first.labels.shape == (2, 72, 72)
    assert first.noise.shape == (2, 5, 72, 72)
    assert first.images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("scale", [1, 8, 32])
def test_noise_is_standard_normal_at_each_pixel(scale: int) -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([batches.smooth_field(rng, 5, 40, scale) for _ in range(1500)])
    assert np.abs(draws.mean(axis=0)).max() < 0.15
    assert np.abs(draws.std(axis=0) - 1).max() < 0.1


# The loop


def test_a_step_changes_both_networks(pairs: Pairs) -> None:
    trainer = train.Trainer(TINY)
    networks_before = [
        [p.detach().clone() for p in net.parameters()]
        for net in (trainer.generator, trainer.discriminator, trainer.average)
    ]
    losses = trainer.step(draw_batch(pairs, TINY, 0))
    assert all(np.isfinite(value) for value in losses.values())
    for net, before in zip(
        (trainer.generator, trainer.discriminator, trainer.average), networks_before, strict=True
    ):
        assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_loss_goes_down_on_one_tile(pairs: Pairs) -> None:
    trainer = train.Trainer(replace(TINY, steps=1000, generator_rate=2e-3))
    batch = draw_batch(pairs, TINY, 0)
    anchors = [trainer.step(batch)["anchor"] for _ in range(60)]
    assert np.mean(anchors[-5:]) < 0.5 * np.mean(anchors[:5])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_resume_is_exact(folder: Path, tmp_path: Path, bfloat16: bool) -> None:
    config = replace(TINY, bfloat16=bfloat16)
    straight = train.fit(
        folder, tmp_path / "straight", config, train.Schedule(4, save_every=4), facts=EBHI, cache=tmp_path
    )
    train.fit(
        folder, tmp_path / "broken", config, train.Schedule(2, save_every=9), facts=EBHI, cache=tmp_path
    )
    broken = train.fit(
        folder, tmp_path / "broken", config, train.Schedule(4, save_every=9), resume=True, cache=tmp_path
    )
    one, two = load_checkpoint(straight), load_checkpoint(broken)
    assert one.step == two.step == 4
    for part in ("generator", "average", "discriminator"):
        for key, value in one.state[part].items():
            assert torch.equal(value, two.state[part][key]), (part, key)
    about = json.loads(broken.with_suffix(".json").read_text())
    assert about["step"] == 4
    assert about["config_sha256"] == config.sha256()
    assert [
        json.loads(line)["step"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    ] == [2, 4]
    assert cv2.imread(str(tmp_path / "broken" / "sheet-000004.png")) is not None
    assert not list(tmp_path.rglob("*.part*"))


def test_settings_survive_json() -> None:
    for config in (*PRESETS.values(), TINY):
        assert config_from_json(config.to_json()) == config


def test_settings_of_the_shipped_generator_are_kept() -> None:
    # Its card has the hash of its settings: they can be trained again whatever presets become.
    recipe = read_overrides(Path(__file__).parent.parent / "examples" / "safron-seamless.json")
    config = override(preset("safron-seamless"), recipe, "recipe")
    assert config.sha256() == load_model("safron-seamless").card.extra["config_sha256"]
    assert (config.seed, config.steps) == (0, 11200)


# Export


def test_export_keeps_the_picture_and_writes_the_card(folder: Path, tmp_path: Path) -> None:
    import onnxruntime

    saved = train.fit(folder, tmp_path, TINY, train.Schedule(1), facts=EBHI, cache=tmp_path)
    out = tmp_path / "tiny.onnx"
    card = export.export_checkpoint(saved, out)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["safron"]) == card
    assert card["parity_max_abs"] < 1e-3 * 255
    assert card["overlap_mismatch"] < 1e-6
    assert card["tile"] == {"multiple_of": 4, "default": 256}
    assert (card["version"], card["context"], card["alignment"], card["outside"]) == ("1", 20, 4, "edge")
    assert (card["noise_channels"], card["noise_scales"]) == (5, [1, 1, 8, 32, 32])
    assert [label["name"] for label in card["labels"]] == ["background", "stroma", "gland"]
    assert card["labels"][0]["fill"] == list(GLASS)
    assert (card["steps"], card["config_sha256"]) == (1, TINY.sha256())
    assert "CC BY 4.0" in card["licence"]
    assert card["trained_on"] == "EBHI-Seg: 1 image of 1 slide"
    assert card["mpp"] == 1

    average = fresh()
    average.load_state_dict(load_checkpoint(saved).state["average"])
    labels, noise = window(64)
    labels = np.maximum(labels, 1)  # glass is painted over, see below
    (image,) = session.run(None, {"labels": np.stack([labels] * 2), "noise": np.stack([noise] * 2)})
    assert image.shape == (2, 24, 24, 3)
    assert image.dtype == np.float32
    expected = render(average, labels, noise)
    assert np.abs(image[1] - expected).max() < 0.51
    labels[:, :40] = 0
    (image,) = session.run(None, {"labels": labels[None], "noise": noise[None]})
    # Column 40 of the window is column 20 of the patch; four pixels into the glass its fill is reached.
    assert np.abs(image[0, :, :16] - GLASS).max() < 1e-3
    assert np.abs(image[0, :, 17:] - GLASS).max() > 1


def test_background_beside_tissue_is_cleared_by_a_share() -> None:
    labels, noise = window(96)
    labels[:, :48] = 0  # what lies deep inside it is the fill in any case
    inner = labels[20:-20, 20:-20]
    inputs = torch.from_numpy(labels[None]), torch.from_numpy(noise[None])
    with torch.no_grad():
        drawn, cleared, filled = (
            export.Contract(fresh(), TINY.model, clear).eval()(*inputs)[0].numpy()
            for clear in (0.0, 0.75, 1.0)
        )
    background = inner == 0
    share = cv2.blur((labels == 0).astype(np.float64), (9, 9))[20:-20, 20:-20]
    beside = background & (share <= 0.8)
    assert 0 < beside.sum() < background.sum()
    np.testing.assert_array_equal(cleared[~background], drawn[~background])
    np.testing.assert_allclose(cleared[beside], drawn[beside] + 0.75 * (GLASS - drawn[beside]), atol=1e-3)
    np.testing.assert_allclose(filled[background], np.broadcast_to(GLASS, (background.sum(), 3)), atol=1e-3)
    assert np.abs(drawn[beside] - GLASS).max() > 1


def test_export_refuses_a_graph_that_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PARITY_LIMIT", -1.0)
    with pytest.raises(export.Failed, match="nothing was written"):
        export.export_fresh(TINY, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_a_name_with_a_card_beside_it(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # A card beside the file takes the place of the one inside, and the checkpoint's own JSON is no card at all.
    saved = train.fit(folder, tmp_path, TINY, train.Schedule(1), facts=EBHI, cache=tmp_path)
    outcome = run_program(capfd, cli.main, "export", saved, saved.with_suffix(".onnx"))
    assert (outcome.code, "checkpoint.json, which lies beside it" in outcome.error) == (2, True)
    assert not saved.with_suffix(".onnx").exists()
    (tmp_path / "left.json").write_text("{}")
    outcome = run_program(capfd, cli.main, "export-random", "--size", "tiny", tmp_path / "left.onnx")
    assert (outcome.code, "choose another name, or remove" in outcome.error) == (2, True)
    assert not (tmp_path / "left.onnx").exists()


# What users get wrong


@dataclass(frozen=True)
class BadFolder:
    """A folder that cannot be trained on.

    Attributes
    ----------
    what : is wrong; the test's name.
    files : what it holds, by name; None where there is no such folder.
    says : pattern of the message.
    """

    what: str
    files: dict[str, Any] | None
    says: str


IMAGE, MASK = "A-1-400-001.png", "A-1-400-001.gland.png"
BLACK, WHITE = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
ONE = np.zeros((8, 8), np.uint8)
ONE[2, 3] = 1
BAD_FOLDERS = (
    BadFolder("no folder", None, "not a folder"),
    BadFolder("empty", {}, "holds no"),
    BadFolder("no mask", {IMAGE: BLACK}, r"A-1-400-001\.gland\.png"),
    BadFolder(
        "sizes differ",
        {IMAGE: BLACK, MASK: np.zeros((8, 9), np.uint8)},
        "9 x 8 but its image is 8 x 8",
    ),
    BadFolder(
        "a value that is none",
        {IMAGE: BLACK, MASK: ONE},
        r"gland\.png: value 1 at row 2, column 3 is not a label; labels are 0 and 255",
    ),
    BadFolder(
        "glands without colour",
        {IMAGE: WHITE, MASK: WHITE[..., 0]},
        r"001\.png is as white as background where .*gland\.png has glands",
    ),
    BadFolder(
        "two images of a mask",
        {IMAGE: WHITE, "A-1-400-001.webp": BLACK, MASK: WHITE[..., 0]},
        r"001\.png and .*001\.webp have one name",
    ),
    BadFolder("no image", {IMAGE: None, MASK: WHITE[..., 0]}, "cannot be read"),
)


@pytest.mark.parametrize("case", BAD_FOLDERS, ids=lambda case: case.what)
def test_bad_folders(case: BadFolder, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    if case.files is not None:
        folder.mkdir()
        for name, pixels in case.files.items():
            if pixels is None:
                (folder / name).write_bytes(b"no image")
            else:
                cv2.imwrite(str(folder / name), pixels)
    with pytest.raises(BadInput, match=case.says) as problem:
        ebhi.prepare(folder)
    one_line(problem)


def test_bad_settings(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="choose one of"):
        preset("nothing")
    with pytest.raises(BadInput, match="device 'abacus'"):
        train.Trainer(TINY, "abacus")
    with pytest.raises(BadInput, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"bad")
    with pytest.raises(BadInput, match="not a safron checkpoint"):
        load_checkpoint(tmp_path / "bad.pt")
    out = tmp_path / "run"
    train.fit(folder, out, TINY, train.Schedule(1), facts=EBHI)
    with pytest.raises(BadInput, match="--resume"):
        train.fit(folder, out, TINY, train.Schedule(2))
    with pytest.raises(BadInput, match="other settings"):
        train.fit(folder, out, replace(TINY, seed=1), train.Schedule(2), resume=True)


def test_resume_refuses_other_data(folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("a_1", "b_1", "c_1")):
        pair(tmp_path / "pairs", name, seed)
    out = tmp_path / "run"
    path = train.fit(tmp_path / "pairs", out, TINY, train.Schedule(1))
    told = "images 2, slides 2, data pairs"
    with pytest.raises(
        BadInput, match=rf"other data \({told}\) than that given \(.* data EBHI-Seg\)"
    ) as problem:
        train.fit(folder, out, TINY, train.Schedule(2), facts=EBHI, resume=True)
    one_line(problem)
    for name in ("a_2", "b_2", "c_2"):
        pair(tmp_path / "pairs", name)
    with pytest.raises(BadInput, match=rf"\({told}\) than that given \(images 5, slides 5, data pairs\)"):
        train.fit(tmp_path / "pairs", out, TINY, train.Schedule(2), resume=True)
    assert load_checkpoint(path).step == 1
    # A checkpoint that says nothing of its data goes on.
    kept = load_checkpoint(path)
    save_checkpoint(path, replace(kept, metadata={"torch": "1"}))
    train.fit(tmp_path / "pairs", out, TINY, train.Schedule(2), resume=True)
    assert load_checkpoint(path).step == 2


def test_command_line_reports_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_program(capfd, cli.main, "fit", tmp_path / "none", tmp_path / "out")
    assert (outcome.code, "is not a folder" in outcome.error) == (2, True)
    outcome = run_program(capfd, cli.main, "export", tmp_path / "none.pt", tmp_path / "x.onnx")
    assert (outcome.code, "no such file" in outcome.error) == (2, True)
    outcome = run_program(capfd, cli.main, "export", tmp_path / "none.pt", tmp_path / "x.onnx", "--debug")
    assert (outcome.code, "Traceback" in outcome.err) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run_program(capfd, cli.main, "fit", tmp_path, tmp_path / "out")
    assert (outcome.code, "pip install 'safron[train]'" in outcome.error) == (2, True)


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-3"])
def test_a_training_of_no_length_is_refused(
    minutes: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_program(capfd, cli.main, tmp_path, tmp_path / "out", "--minutes", minutes)
    assert (outcome.code, "--minutes" in outcome.error) == (2, True)


def test_command_line_says_its_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_program(capfd, cli.main, "--version").out.startswith("safron ")


def test_command_line_exports_random_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run_program(capfd, cli.main, "export-random", "--seed", "1", tmp_path / "x.onnx")
    assert (outcome.code, "parity" in outcome.out) == (0, True)
    assert (tmp_path / "x.onnx").stat().st_size < 12e6


def test_every_option_is_described() -> None:
    for name, command in cli.commands.commands.items():
        assert command.epilog is not None, name
        assert "Example: safron-train" in command.epilog
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), (name, parameter.name)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_bfloat16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    config, cpu = preset("safron-tissue", "tiny"), torch.device("cpu")
    assert choose_half(config, cpu) is expected
    beside = train.Trainer(config).layout is torch.channels_last
    assert beside == (expected is not None), "in float32 a large convolution would take 30 times as long"
    assert choose_half(replace(config, bfloat16=False), cpu) is None
    assert choose_half(replace(config, float16=True), cpu) is torch.float16
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_half(config, cpu) is None
