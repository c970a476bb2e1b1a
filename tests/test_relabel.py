"""Numbers of other programs become labels, by rules; and a mask becomes a picture that is the same mask."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from cases import exit_code
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from masks import blobs
from PIL import Image
from safron.io.errors import BadInput
from safron.io.masks.cli import main
from safron.io.masks.open import open_mask
from safron.io.masks.relabel import Relabel
from safron.training.config import override, preset
from safron.training.config.data_sets import DataFacts
from safron.training.data.folders import open_source

pytestmark = pytest.mark.usefixtures("here")


run = partial(exit_code, main)


def read(path: Path | str, **options: Any) -> npt.NDArray[np.uint8]:
    return open_mask(path, **options)[:, :]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.uint64])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_rules_are_looked_up_number_by_number(dtype: Any, data: st.DataObject) -> None:
    values = data.draw(arrays(dtype, (3, 4)))
    rest = data.draw(st.none() | st.integers(0, 255))
    text = "1=7,4-90=2,300-70000=3" + ("" if rest is None else f",*={rest}")

    def by_hand(value: int) -> int:
        for first, last, label in ((1, 1, 7), (4, 90, 2), (300, 70000, 3)):
            if first <= value <= last:
                return label
        return value if rest is None else rest

    expected = [[by_hand(int(value)) for value in row] for row in values]
    assert Relabel.parse(text).apply(values).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "'1' must be NUMBER=LABEL"),
        ("1=256", "must be NUMBER=LABEL"),
        ("-1=2", "must be NUMBER=LABEL"),
        ("5-3=1", "begin with the smaller number"),
        ("1-9=1,4=2", "number 4 has two labels"),
        ("", "must be NUMBER=LABEL"),
    ],
)
def test_rules_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Relabel.parse(text)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("kind", ["tif", "npy", "zarr", "zip"])
def test_masks_of_other_programs_are_imported(dtype: str, kind: str) -> None:
    """Glands as numbers of instances, of 8 to 32 bits, in all files that hold numbers."""
    values = blobs(90, 70, labels=9).astype(dtype)
    if dtype != "uint8":
        values[values > 4] *= 60
    path = f"m.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, values)
    elif kind == "npy":
        np.save(path, values)
    else:
        store = zarr.storage.ZipStore(path, mode="w") if kind == "zip" else path
        zarr.create_array(store, data=values)
        if kind == "zip":
            store.close()
    assert run("import", path, "a.zarr", "--binarize") == 0
    np.testing.assert_array_equal(read("a.zarr"), values > 0)
    assert run("import", path, "b.zarr", "--map", "1-4=1,5-70000=2") == 0
    np.testing.assert_array_equal(read("b.zarr"), np.where(values > 4, 2, np.where(values > 0, 1, 0)))


def test_bitmaps_and_colours_are_relabelled(capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("m.bmp", np.array([[0, 255], [3, 0]], np.uint8))
    assert run("import", "m.bmp", "a.zarr", "--map", "255=2,3=1") == 0
    np.testing.assert_array_equal(read("a.zarr"), [[0, 2], [1, 0]])
    cv2.imwrite("m.png", np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8))
    assert run("import", "m.png", "b.zarr", "--palette", "builtin", "--map", "2=9") == 0
    np.testing.assert_array_equal(read("b.zarr"), [[0, 9]])
    assert run("import", "m.bmp", "c.zarr", "--map", "3=300") == 2
    assert run("import", "m.bmp", "c.zarr", "--map", "3=3", "--binarize") == 2
    assert run("import", "m.bmp", "c.zarr", "--indices", "--palette", "builtin") == 2
    assert not Path("c.zarr").exists()
    capsys.readouterr()
    np.save("n.npy", np.array([[7, 4000]]))
    assert run("import", "n.npy", "c.zarr", "--map", "7=1") == 2
    assert "value 4000 at row 0, column 1" in capsys.readouterr().err


def test_a_relabelled_mask_travels_and_has_its_own_fingerprint() -> None:
    np.save("n.npy", np.array([[7, 4000]]))
    one, two = (open_mask("n.npy", relabel=Relabel.parse(text)) for text in ("7=1,4000=2", "7=2,4000=1"))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one))[:, :], [[1, 2]])
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() == open_mask("n.npy", relabel=Relabel.parse("4000=2,7=1")).fingerprint()


@settings(max_examples=25, deadline=None)
@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_picture_is_the_mask(
    tmp_path_factory: pytest.TempPathFactory, labels: npt.NDArray[np.uint8]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    zarr.save_array(folder / "m.zarr", labels)
    assert run("to-png", folder / "m.zarr", folder / "m.png") == 0
    assert run("import", folder / "m.png", folder / "b.zarr", "--indices") == 0
    np.testing.assert_array_equal(read(folder / "b.zarr"), labels)


def test_a_picture_has_the_masks_colours_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ellipses", "m.zarr", "--size", "700,600", "--mpp", "2") == 0
    assert run("to-png", "m.zarr", "m.png", "--downsample", "3") == 0
    assert "233 x 200 pixels" in capsys.readouterr().out
    labels, picture = read("m.zarr"), cv2.imread("m.png")
    colours = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0]])
    np.testing.assert_array_equal(picture, colours[labels[1::3, 1::3][:200, :233]])
    assert open_mask("m.png", palette={0: (0, 0, 255), 1: (255, 0, 0), 2: (0, 255, 0)}).mpp == pytest.approx(
        6, rel=1e-3
    )
    zarr.create_array("wide.zarr", shape=(1, 70_000), dtype="uint8")
    assert run("to-png", "wide.zarr", "w.png") == 2
    assert "pass --downsample 2" in capsys.readouterr().err


def test_info_names_classes_and_areas(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ellipses", "m.zarr", "--size", "2000,1000", "--mpp", "2") == 0
    capsys.readouterr()
    assert run("info", "m.zarr") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("label")]
    assert [line[-1] for line in lines] == ["background", "stroma", "gland"]
    assert sum(float(line[4]) for line in lines) == pytest.approx(8.0, abs=0.002)


def test_training_reads_masks_by_the_same_rules() -> None:
    image = np.full((200, 200, 3), 120, np.uint8)
    for name, labels in (("a", blobs(200, 200)), ("b", blobs(200, 200, seed=1))):
        cv2.imwrite(f"{name}.png", image)
        cv2.imwrite(f"{name}.mask.png", np.array([0, 255, 40], np.uint8)[labels])
    config = override(preset("safron", "small"), {"image_mpp": 1.0}, "here")
    with pytest.raises(BadInput, match="is not a label"):
        open_source(Path(), config)
    source = open_source(Path(), config, facts=DataFacts(map="255=1,40=2"))
    found = np.unique(np.concatenate([np.asarray(mask).reshape(-1) for mask in source.labels]))  # type: ignore[attr-defined]
    assert found.tolist() == [0, 1, 2]
    for name in "ab":
        grey = cv2.imread(f"{name}.mask.png", cv2.IMREAD_GRAYSCALE)
        shown = Image.fromarray(np.select([grey == 255, grey == 40], [1, 2], 0).astype(np.uint8), "P")
        shown.putpalette([9, 9, 9, 200, 10, 10, 10, 200, 10])
        shown.save(f"{name}.mask.png")
    Path("own.json").write_text(json.dumps({"0": [9, 9, 9], "1": [200, 10, 10], "2": [10, 200, 10]}))
    for palette in ("indices", "own.json"):
        told = open_source(Path(), config, facts=DataFacts(palette=palette))
        for one, other in zip(told.labels, source.labels, strict=True):  # type: ignore[attr-defined]
            np.testing.assert_array_equal(one, other)
    with pytest.raises(BadInput, match="colour"):
        open_source(Path(), config, facts=DataFacts(palette="builtin"))
    for facts in (DataFacts("glands", palette="builtin"), DataFacts("glands", map="255=1")):
        with pytest.raises(BadInput, match="masks of glands say themselves"):
            open_source(Path(), config, facts=facts)
    Path("dataset.json").write_text(json.dumps({"map": "255=1,40=300"}))
    with pytest.raises(BadInput, match="40=300' must be"):
        open_source(Path(), config)
