"""Are data sets read as their owners lay them out, with their own pixel size, and does the card say only what is known?"""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from cases import run_program
from PIL import Image
from safron.engine.generator.shipped import model_names
from safron.io.errors import BadInput
from safron.training import cli
from safron.training.config.data_sets import DATA_SETS, DataFacts, read_facts
from safron.training.config.exported import SHIPPED
from safron.training.config.settings import override, preset
from safron.training.data import Pairs, Source, draw_batch, open_source, split
from training_cases import Bytes, image_of, labels_of, one_line, pair, write

pytest.importorskip("scipy", reason="training needs SciPy: pip install 'safron[train]'")

TINY = preset("safron-seamless", "tiny")
PAPER = preset("safron", "tiny")


def opened(folder: Path, data_set: str = "", config: Any = TINY, **facts: Any) -> Pairs:
    source: Source = open_source(folder, config, None, DataFacts(data_set, **facts))
    assert isinstance(source, Pairs)
    return source


def instances(labels: Bytes, first: int = 1) -> npt.NDArray[Any]:
    """Number the glands of labels from `first` on."""
    count, parts = cv2.connectedComponents((labels == 2).astype(np.uint8))
    assert count > 2
    return np.where(np.asarray(parts) > 0, np.asarray(parts) + first - 1, 0)


def grade(path: Path, seed: int) -> Bytes:
    """Write an image whose glass, (243, 240, 243), lies above the paper's threshold; return its labels."""
    labels = labels_of(90, 100, seed)
    write(path, image_of(labels))
    return labels


def crag(folder: Path, *, wide: bool = False) -> dict[str, Bytes]:
    """Three images to train on and one to test on, with instance masks and pictures of both laid over each other."""
    labels = {}
    for seed, (part, name) in enumerate(
        (("train", "train_1"), ("train", "train_2"), ("train", "train_3"), ("valid", "test_1"))
    ):
        labels[f"{part}/{name}"] = grade(folder / part / "Images" / f"{name}.png", seed)
        mask = instances(labels[f"{part}/{name}"], 254 if wide else 1)
        write(folder / part / "Annotation" / f"{name}.png", mask.astype(np.uint16 if wide else np.uint8))
        write(folder / part / "Overlay" / f"{name}.png", np.zeros((90, 100, 3), np.uint8))
    return labels


def glas(folder: Path, count: int = 8) -> None:
    for seed in range(count):
        labels = grade(folder / f"train_{seed + 1}.bmp", seed)
        write(folder / f"train_{seed + 1}_anno.bmp", instances(labels).astype(np.uint8))


# Layouts


@pytest.mark.parametrize("wide", [False, True], ids=["8 bit", "numbers above 255"])
@pytest.mark.parametrize("data_set", ["", "crag"])
def test_crag(tmp_path: Path, data_set: str, wide: bool) -> None:
    labels = crag(tmp_path / "data", wide=wide)
    source = opened(tmp_path / "data", data_set)
    assert source.slides == tuple(sorted(labels))
    for name, label, image in zip(source.slides, source.labels, source.images, strict=True):
        assert np.array_equal(label, labels[name])  # background is what is brighter than 230
        assert np.array_equal(image, image_of(labels[name]))
    training, held_out = split(source, 0.1)
    assert (len(training), held_out.slides) == (3, ("valid/test_1",))  # the owners' own division
    assert source.name == ("CRAG" if data_set else "data")
    assert ("by its folders" in source.told) is not bool(data_set)
    # A part of it by itself has nothing set aside by its owners.
    assert len(split(opened(tmp_path / "data" / "train", data_set), 0.1)[0]) == 2


def test_digestpath(tmp_path: Path) -> None:
    for seed in range(2):
        labels = labels_of(90, 100, seed)
        (tmp_path / "tissue-train-pos").mkdir(exist_ok=True)
        for name, array in (
            (f"p_{seed}", image_of(labels)),
            (f"p_{seed}_mask", (labels == 2) * np.uint8(255)),
        ):
            Image.fromarray(array).save(tmp_path / "tissue-train-pos" / f"{name}.jpg", quality=90)
    source = opened(tmp_path, "digestpath")
    assert source.slides == ("tissue-train-pos/p_0", "tissue-train-pos/p_1")
    for seed in range(2):
        # A JPEG blurs the mask's edges, which lie at half its height.
        assert (source.labels[seed] == labels_of(90, 100, seed)).mean() > 0.99
        assert np.mean((source.labels[seed] == 2) == (labels_of(90, 100, seed) == 2)) > 0.998


def test_glas(tmp_path: Path) -> None:
    glas(tmp_path)
    source = opened(tmp_path, "glas")
    assert source.slides == tuple(f"train_{number}" for number in range(1, 9))
    assert np.array_equal(source.labels[3], labels_of(90, 100, 3))
    training, held_out = split(source, 0.1)
    assert (len(training), len(held_out)) == (7, 1)
    labels = grade(tmp_path / "testA_1.bmp", 9)
    write(tmp_path / "testA_1_anno.bmp", instances(labels).astype(np.uint8))
    assert split(opened(tmp_path, "glas"), 0.1)[1].slides == ("testA_1",)


def test_gland_masks_of_other_data_change_no_image(tmp_path: Path) -> None:
    labels = grade(tmp_path / "x.png", 0)
    write(tmp_path / "x.gland.png", (labels == 2) * np.uint8(255))
    source = opened(tmp_path, "glands")
    assert np.array_equal(source.images[0], image_of(labels))
    assert np.array_equal(source.labels[0], labels)
    assert source.zoom == 1
    with pytest.raises(
        BadInput, match=r"x\.gland\.png is named as a mask.*--data-set glands or ebhi"
    ) as problem:
        opened(tmp_path)
    one_line(problem)


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        ("a.bmp", "a_anno.bmp", "--data-set glas"),
        ("a.jpg", "a_mask.jpg", "--data-set digestpath"),
        ("a.webp", "a.gland.png", "--data-set glands or ebhi"),
    ],
)
def test_masks_of_a_named_data_set_are_not_guessed(tmp_path: Path, image: str, mask: str, words: str) -> None:
    for name in (image, mask):
        write(tmp_path / name, image_of(labels_of(90, 100)))
    with pytest.raises(BadInput, match=words) as problem:
        opened(tmp_path)
    one_line(problem)


def test_gland_masks_among_labels_name_the_way_out(tmp_path: Path) -> None:
    pair(tmp_path, "a_1")
    write(tmp_path / "a_1.mask.png", (labels_of(90, 100) == 2) * np.uint8(255))
    with pytest.raises(
        BadInput, match=r"value 255 .* choose --data-set glands for masks of glands"
    ) as problem:
        opened(tmp_path)
    one_line(problem)
    assert set(np.unique(opened(tmp_path, "glands").labels[0])) == {0, 1, 2}


def test_slides_are_what_the_user_says(tmp_path: Path) -> None:
    for name in ("case1_001", "case1_002", "case2_001"):
        pair(tmp_path, name)
    assert opened(tmp_path).slides == ("case1_001", "case1_002", "case2_001")
    assert opened(tmp_path, slide_of="case([0-9]+)").slides == ("1", "1", "2")
    assert opened(tmp_path, slide_of="case[0-9]").slides == ("case1", "case1", "case2")
    for pattern, words in (("case2.*", "finds no slide in 'case1_001'"), ("(", "give a regular expression")):
        with pytest.raises(BadInput, match=words) as problem:
            opened(tmp_path, slide_of=pattern)
        one_line(problem)


# Readers


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_turns_neither_image_nor_mask(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ending: str, orientation: int
) -> None:
    labels = labels_of(96, 96)
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"quality": 95} if ending == "jpg" else {"lossless": True}
    Image.fromarray(image_of(labels)).save(tmp_path / f"a_1.{ending}", exif=exif, **options)
    Image.fromarray(labels).save(tmp_path / "a_1.mask.png", exif=exif)
    source = opened(tmp_path)
    assert np.array_equal(source.labels[0], labels)
    assert np.abs(source.images[0].astype(int) - image_of(labels)).mean() < 4
    assert "1 file with this: an orientation in EXIF" in capfd.readouterr().err


def test_what_was_not_scanned_is_white(tmp_path: Path) -> None:
    labels = labels_of(90, 100)
    alpha = np.where(labels > 0, 255, 0).astype(np.uint8)
    rgb = np.where(labels[..., None] > 0, image_of(labels), 0).astype(np.uint8)
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "a_1.png")
    write(tmp_path / "a_1.mask.png", labels)
    image = opened(tmp_path).images[0]
    assert (image[labels == 0] == 255).all()
    assert np.array_equal(image[labels > 0], image_of(labels)[labels > 0])


def test_masks_are_read_as_for_rendering(tmp_path: Path) -> None:
    labels = labels_of(90, 100)
    indexed = Image.fromarray(labels, mode=None).convert("P")
    indexed.putpalette([255, 255, 255, 200, 0, 0, 150, 200, 150] + [0] * 759)
    for name, mask, expected in (
        ("onebit.png", Image.fromarray(labels > 0), labels > 0),
        ("indexed.tif", indexed, np.asarray(indexed)),
    ):
        folder = tmp_path / name
        write(folder / "images" / "a.png", image_of(labels))
        (folder / "masks").mkdir()
        mask.save(folder / "masks" / f"a.{name[-3:]}")
        assert np.array_equal(opened(folder).labels[0], expected)

    folder = tmp_path / "indexed.png"
    write(folder / "images" / "a.png", image_of(labels))
    (folder / "masks").mkdir()
    indexed.save(folder / "masks" / "a.png")
    with pytest.raises(
        BadInput, match=r"a\.png: colour .* as its file is indexed; save labels as grey"
    ) as problem:
        opened(folder)
    one_line(problem)


# Pixel sizes


def sized(folder: Path, name: str, mpp: float) -> None:
    labels = labels_of(90, 100)
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(
        *(folder / f"{name}.tif", image_of(labels)),
        photometric="rgb",
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit=3,
    )
    write(folder / f"{name}.mask.png", labels)


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["seamless", "paper"])
def test_the_pixel_size_is_the_datas_own(tmp_path: Path, config: Any) -> None:
    sized(tmp_path, "a", 0.55)
    source = opened(tmp_path, config=config)
    assert source.mpp == pytest.approx(0.55)
    assert source.zoom == 1
    wanted = override(config, {"model": {"mpp": 0.275}}, "test")
    assert opened(tmp_path, config=wanted).zoom == pytest.approx(2)
    # What the user says counts more.
    assert opened(tmp_path, config=wanted, mpp=0.275).zoom == 1
    sized(tmp_path, "b", 0.25)
    with pytest.raises(BadInput, match=r"a\.tif has 0\.55 um per pixel and .*b\.tif 0\.25; bring") as problem:
        opened(tmp_path, config=config)
    one_line(problem)


def test_an_unknown_pixel_size_stays_unknown_or_is_the_users(tmp_path: Path) -> None:
    pair(tmp_path, "a_1")
    assert (opened(tmp_path).mpp, opened(tmp_path).zoom) == (None, 1)
    told = opened(tmp_path, config=override(TINY, {"model": {"mpp": 0.55}}, "test"))
    assert (told.mpp, told.zoom) == (0.55, 1)


def test_dataset_json(tmp_path: Path) -> None:
    pair(tmp_path, "a_1")
    (tmp_path / "dataset.json").write_text(
        '{"name": "Ours", "licence": "CC0", "mpp": 0.5, "labels": {"0": "background"}, "data_set": "ebhi"}'
    )
    facts = read_facts(tmp_path, DataFacts(licence="mine"))
    assert facts == DataFacts(name="Ours", licence="mine", mpp=0.5)  # a data set is chosen by the user alone
    source = open_source(tmp_path, TINY)
    assert (source.name, source.mpp) == ("Ours", 0.5)
    for text, words in (("{", "cannot be read as JSON"), ('{"mpp": "large"}', "mpp 'large' must be")):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(BadInput, match=words) as problem:
            open_source(tmp_path, TINY)
        one_line(problem)


# Epochs


def test_an_epoch_of_crag_is_the_papers_975_tiles(tmp_path: Path) -> None:
    config = preset("safron")
    image, mask = np.full((1516, 1512, 3), 150, np.uint8), np.zeros((1516, 1512), np.uint8)
    mask[300:600, 300:600] = 7
    for part, count in (("train", 39), ("valid", 1)):
        for kind, array in (("Images", image), ("Annotation", mask)):
            path = tmp_path / part / kind / f"{part}_1.png"
            write(path, array)
            for number in range(2, count + 1):
                path.with_name(f"{part}_{number}.png").hardlink_to(path)
    training, held_out = split(opened(tmp_path, "crag", config, mpp=0.55), config.held_out)
    assert (len(training), len(held_out), training.mpp) == (39, 1, 0.55)
    side = config.tile_side + 2 * config.model.context
    assert training.tiles(side, config.epoch_stride) == 975
    assert held_out.tiles(side, config.epoch_stride) == 25


@pytest.mark.parametrize(("data_set", "strides"), [("digestpath", (512, 107, 28)), ("crag", (200, 42, 11))])
def test_the_stride_is_the_papers_of_each_data_set(data_set: str, strides: tuple[int, ...]) -> None:
    for size, stride in zip(("full", "small", "tiny"), strides, strict=True):
        given = {"preset": "safron", "size": size, "data_set": data_set}
        assert cli._given_config(given).epoch_stride == stride


# Memory


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["with cues", "without"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, config: Any) -> None:
    side, peaks = 400, []
    for count in (8, 32):
        folder = tmp_path / f"{count}"
        pair(folder, "a_0", size=(side, side))
        for name in (f"a_{number}.{kind}" for number in range(1, count) for kind in ("png", "mask.png")):
            (folder / name).hardlink_to(folder / f"a_0.{name.partition('.')[2]}")
        tracemalloc.start()
        source = open_source(folder, config, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 24 images more, which hold 4 bytes a pixel, or 12 with cues; what is kept of those is a sample.
    assert peaks[1] - peaks[0] < 24 * side**2 / 8
    assert not list(tmp_path.glob("tmp*"))
    assert draw_batch(source, config, 0).labels.shape[1] == config.tile_side + 2 * config.model.context


# The card


def train(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], folder: Path, *options: object
) -> dict[str, Any]:
    """Train for one step, export, and return the card with what the run said of itself."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import onnx

    out = tmp_path / "run"
    words = (folder, out, "--size", "tiny", "--steps", 1, "--device", "cpu", *options)
    outcome = run_program(capfd, cli.main, *words)
    assert outcome.code == 0, outcome.err
    outcome_of_export = run_program(capfd, cli.main, "export", out / "checkpoint.pt", out / "x.onnx")
    assert outcome_of_export.code == 0, outcome_of_export.err
    (entry,) = onnx.load(out / "x.onnx").metadata_props
    card: dict[str, Any] = json.loads(entry.value)
    return card | {"said": outcome.err}


def frames(folder: Path) -> None:
    for index, name in enumerate(("A-1-400-001", "B-1-400-001", "C-1-400-001")):
        labels = labels_of(224, 224, index)
        write(folder / f"{name}.png", image_of(labels, grain=12))
        write(folder / f"{name}.gland.png", (labels == 2) * np.uint8(255))


def claims(card: dict[str, Any]) -> bool:
    """Whether a card claims EBHI-Seg or its licence."""
    return any(word in json.dumps(card) for word in ("EBHI", "Shi et al", "CC BY"))


@pytest.mark.parametrize("kind", ["pairs in a folder of that name", "frames read as glands", "crag"])
def test_no_card_claims_data_that_nobody_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    folder, options = tmp_path / "colon", ()
    if kind == "crag":
        crag(folder)
    elif kind == "frames read as glands":
        frames(folder)
        options = ("--data-set", "glands")
    else:
        folder = tmp_path / "EBHI-Seg"
        pair(folder, "a_1")
        pair(folder, "b_1", 1)
    card = train(tmp_path, capfd, folder, *options)
    assert card["licence"] == "unknown"
    assert "mpp" not in card
    assert "an unknown pixel size" in card["said"]
    if folder.name != "EBHI-Seg":  # that name is the user's own
        assert not claims(card)
        assert card["trained_on"].startswith(f"colon: {3 if kind == 'crag' else 2} images")


def test_ebhi_is_claimed_when_the_user_names_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frames(tmp_path / "data")
    card = train(tmp_path, capfd, tmp_path / "data", "--data-set", "ebhi")
    assert "CC BY 4.0" in card["licence"]
    assert card["trained_on"] == "EBHI-Seg: 2 images of 2 slides"
    assert card["mpp"] == 1
    assert card["name"] == "run", (
        "its folder's: the preset's is that of a generator that comes with the package"
    )
    assert "held out: 1 image of 1 slide;" in card["said"]


def test_a_single_slide_is_not_called_held_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frames(tmp_path / "data")
    for name in ("B-1-400-001", "C-1-400-001"):
        (tmp_path / "data" / f"{name}.png").unlink()
        (tmp_path / "data" / f"{name}.gland.png").unlink()
    card = train(tmp_path, capfd, tmp_path / "data", "--data-set", "ebhi")
    said = "held out: nothing, so samples and measures show 1 image of 1 slide of the training;"
    assert said in card["said"]


def test_names_of_generators_that_come_with_the_package_are_known() -> None:
    assert {"identity", *SHIPPED} == {*model_names()}


def test_the_card_says_what_the_user_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    crag(tmp_path / "data")
    (tmp_path / "data" / "dataset.json").write_text('{"name": "Ours", "licence": "CC0"}')
    options = ("--data-set", "crag", "--mpp", 0.55, "--name", "colon", "--trained-on", "our own slides")
    card = train(tmp_path, capfd, tmp_path / "data", *options)
    assert (card["name"], card["licence"], card["trained_on"], card["mpp"]) == (
        *("colon", "CC0", "our own slides"),
        0.55,
    )
    assert "Ours (read as crag, background where" in card["said"]
    assert "0.55 um per pixel" in card["said"]
    # A resumed run keeps it all, without a word; export can change it.
    out = tmp_path / "run"
    outcome = run_program(capfd, cli.main, tmp_path / "data", out, "--resume", "--steps", 2)
    assert outcome.code == 0, outcome.err
    words = ("export", out / "checkpoint.pt", out / "y.onnx", "--licence", "none of your business")
    assert run_program(capfd, cli.main, *words).code == 0
    import onnx

    card = json.loads(onnx.load(out / "y.onnx").metadata_props[0].value)
    assert (card["name"], card["licence"], card["trained_on"]) == ("colon", words[-1], "our own slides")


def test_every_data_set_says_how_it_is_laid_out() -> None:
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    for name in DATA_SETS:
        assert f"`{name}`" in page, name
    assert replace(DATA_SETS["pairs"]).glands is False
