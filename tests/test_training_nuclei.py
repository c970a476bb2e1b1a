"""A generator of nuclei is trained on CoNSeP's layout, sees edges, and renders what it was trained for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cases import run_program
from safron.io.errors import BadInput
from safron.io.masks.canny import Canny, canny
from safron.io.masks.edges import find_edges
from safron.training import cli
from safron.training.config.data_sets import DataFacts, read_facts
from safron.training.config.settings import override, preset
from safron.training.data import consep, draw_batch, open_source
from safron.training.data.source import Pairs
from training_cases import tile, write

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")
pytest.importorskip("onnx", reason="export needs onnx: pip install 'safron[train]'")

from safron.engine.generator.onnx_model import OnnxModel  # noqa: E402
from safron.training import export, networks, train  # noqa: E402

TINY = replace(preset("nuclei", "tiny"), steps=4, bfloat16=False)
FACTS = DataFacts(data_set="consep")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("consep")
    for number in range(3):
        tile(path, f"train_{number}", number)
    tile(path, "train_inked", ink=True)
    return path


def test_most_common_value_of_each_square() -> None:
    values = np.random.default_rng(0).integers(0, 4, (12, 15))
    rows, columns = consep.most_common(values, 3)
    for y, x in np.ndindex(4, 5):
        cell = values[3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
        counts = np.bincount(cell.reshape(-1), minlength=4)
        assert counts[values[rows[y, x], columns[y, x]]] == counts.max()
        assert (rows[y, x] // 3, columns[y, x] // 3) == (y, x)


def test_tiles_come_at_half_their_size(folder: Path) -> None:
    pairs = consep.prepare(folder, TINY.model)
    assert pairs.slides == ("train_0", "train_1", "train_2")
    assert pairs.told == "tiles of 0.25 um per pixel, 1 with ink or little tissue left out (train_inked)"
    assert pairs.mpp == 0.5
    for image, labels, edges in zip(pairs.images, pairs.labels, pairs.edges, strict=True):
        assert image.shape == (120, 120, 3)
        assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 5}
        assert (labels[2:28, 2:28] == 0).all()
        # Around every nucleus there is an edge, and none lies within tissue.
        assert edges[find_edges(np.pad(labels, 1, "edge"), TINY.model.nuclei) > 0].all()
        assert not edges[cv2.dilate((labels > 1).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0].any()
    # Tiles were stained differently, and no longer are.
    reds = [image[labels > 1][:, 0].mean() for image, labels in zip(pairs.images, pairs.labels, strict=True)]
    assert max(reds) - min(reds) < 12


def numbers_of(folder: Path) -> Any:
    """Numbers of the first tile, and one pixel around them."""
    return np.pad(cv2.imread(str(folder / "inst/train_0.png"), cv2.IMREAD_UNCHANGED), 1, "edge")


def test_other_generators_of_nuclei(folder: Path) -> None:
    labels = [
        {"value": 0, "name": "background", "color": [0, 0, 0]},
        {"value": 1, "name": "nucleus", "color": [128, 128, 128]},
    ]
    one = override(TINY, {"model": {"labels": labels, "nuclei": [1], "mpp": 0.25}}, "test")
    pairs = consep.prepare(folder, one.model)
    assert pairs.images[0].shape == (240, 240, 3)
    assert (pairs.labels[0] == (cv2.imread(str(folder / "inst/train_0.png"), -1) > 0)).all()
    assert (pairs.edges[0] == find_edges(np.pad(pairs.labels[0], 1, "edge"), [1], numbers_of(folder))).all()
    real = consep.prepare(folder, replace(one.model, edges_of="image"))
    assert (real.edges[0] == canny(real.images[0], Canny())).all()
    assert (real.edges[0] != pairs.edges[0]).any()
    with pytest.raises(BadInput, match="multiples of"):
        consep.prepare(folder, replace(one.model, mpp=0.4))
    labels[1]["name"] = "gland"
    with pytest.raises(BadInput, match="'miscellaneous' is not one of background, gland"):
        consep.prepare(folder, override(one, {"model": {"labels": labels}}, "test").model)


def test_tiles_of_another_pixel_size_and_kind_of_file(folder: Path, tmp_path: Path) -> None:
    """As `safron-augment --mpp 0.5` writes them."""
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    for path in list((data / "images").iterdir()):
        image = cv2.imread(str(path))
        path.unlink()
        write(path.with_suffix(".png"), image)
    (data / "dataset.json").write_text('{"mpp": 0.5}')
    source = open_source(data, TINY, tmp_path, read_facts(data, FACTS))
    assert isinstance(source, Pairs)
    assert (source.mpp, [image.shape[:2] for image in source.images]) == (0.5, [(240, 240)] * 3)
    with pytest.raises(
        BadInput, match=r"--mpp 0.25: .* multiples of their own 0.5 um per pixel; give 0.5, 1 or 2"
    ):
        consep.prepare(data, replace(TINY.model, mpp=0.25), 0.5)


def test_a_tile_without_its_image_is_not_dropped(tmp_path: Path) -> None:
    tile(tmp_path, "a")
    tile(tmp_path, "b", 1)
    (tmp_path / "images" / "b.webp").unlink()
    with pytest.raises(
        BadInput, match=r"class/b.png has no image in .*images; add the image or remove class/b.png"
    ):
        consep.prepare(tmp_path, TINY.model)
    tile(tmp_path, "b", 1)
    shutil.copyfile(tmp_path / "images" / "b.webp", tmp_path / "images" / "b.png")
    with pytest.raises(BadInput, match=r"b.png and .*b.webp are images of one tile"):
        consep.prepare(tmp_path, TINY.model)


def test_numbers_of_other_nuclei_are_refused(tmp_path: Path) -> None:
    tile(tmp_path, "a")
    numbers = cv2.imread(str(tmp_path / "inst" / "a.png"), cv2.IMREAD_UNCHANGED)
    for given in (np.roll(numbers, 40, axis=0), np.zeros_like(numbers)):
        write(tmp_path / "inst" / "a.png", given)
        with pytest.raises(
            BadInput, match=r"inst/a.png and class/a.png are not of the same nuclei: .* % have both"
        ):
            consep.prepare(tmp_path, TINY.model)


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no image"):
        consep.prepare(tmp_path, TINY.model)
    tile(tmp_path, "a")
    write(tmp_path / "class" / "a.png", np.full((240, 240), 7, np.uint8))
    with pytest.raises(BadInput, match="the classes of CoNSeP are 0 to 4"):
        consep.prepare(tmp_path, TINY.model)
    (tmp_path / "class" / "a.png").unlink()
    with pytest.raises(BadInput, match="is missing or not of the size"):
        consep.prepare(tmp_path, TINY.model)


def test_batches_hold_edges(folder: Path) -> None:
    source = open_source(folder, TINY, facts=FACTS)
    batch = draw_batch(source, TINY, 0)
    assert batch.edges is not None
    assert batch.edges.shape == batch.labels.shape
    # They are turned together.
    inner = np.s_[:, 1:-1, 1:-1]
    found = np.stack([find_edges(labels, TINY.model.nuclei) for labels in batch.labels])
    assert batch.edges[inner][found > 0].all()


def test_edges_take_the_place_of_labels_in_the_papers_network() -> None:
    model = preset("edge-pix2pix").model
    network = networks.make_generator(replace(model, base=4)).eval()
    assert isinstance(network, networks.PaperGenerator)
    labels = torch.zeros(1, 256, 256, dtype=torch.uint8)
    labels[:, 100:] = 1
    edges = torch.zeros_like(labels)
    edges[:, 100] = 1
    conditions = networks.join_conditions(networks.one_hot_labels(labels, 2), edges, model)
    grey = torch.nn.functional.conv2d(conditions, network.colors)[0] * 127.5 + 127.5
    assert grey[:, [0, 100, 101], 0].T.round().tolist() == [[0] * 3, [255] * 3, [128] * 3]
    assert network(conditions).shape == (1, 3, 256, 256)


def test_trained_exported_and_called(folder: Path, tmp_path: Path, capfd: Any) -> None:
    done = run_program(
        capfd, cli.main, "fit", folder, tmp_path / "run", "--data-set", "consep", "--preset", "nuclei", "--size", "tiny",
        "--steps", "2", "--threads", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    card = export.export_checkpoint(tmp_path / "run" / "checkpoint.pt", tmp_path / "n.onnx")
    assert card["edges"] == {"of": "instances", "labels": [2, 3, 4, 5]}
    assert card["overlap_mismatch"] == 0
    model = OnnxModel(tmp_path / "n.onnx")
    assert model.card.edges is not None
    labels = np.full((1, 72, 72), 2, np.uint8)
    noise = np.zeros((1, 5, 72, 72), np.float32)
    plain, drawn = (model(labels, noise, edges=np.full((1, 1, 72, 72), one, np.uint8)) for one in (0, 1))
    assert plain.shape == (1, 32, 32, 3)
    assert np.abs(plain - drawn).max() > 0


def test_the_papers_generator_wants_edges_of_a_picture() -> None:
    card = export.make_card(preset("edge-pix2pix", "tiny"), steps=1, trained_on="nothing")
    assert card["edges"] == {"of": "image"}


def test_a_step_changes_the_generator(folder: Path) -> None:
    trainer = train.Trainer(TINY)
    before = trainer.generator.stem.weight.detach().clone()
    source = open_source(folder, TINY, facts=FACTS)
    assert TINY.generator_delay == 1
    trainer.step(draw_batch(source, TINY, 0))
    losses = trainer.step(draw_batch(source, TINY, 0))
    assert all(np.isfinite(value) for value in losses.values())
    # Labels, edges and noise all reach the first layer.
    moved = (trainer.generator.stem.weight - before).abs().sum(dim=(0, 2, 3))
    assert (moved > 0).all()
