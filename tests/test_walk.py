"""A pathologist's way: annotations from QuPath, a mask, the page, a stained slide with its labels, tiles, and annotations back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from safron.engine import cli as render
from safron.engine.viewing.scene import open_scene
from safron.io.masks import cli as masks
from safron.io.masks.open import open_mask
from safron.io.tiles import cli as tiles

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from view_pages import serving


def run(program: Callable[[list[str]], Any], *args: object) -> None:
    with pytest.raises(SystemExit) as caught:
        program([str(arg) for arg in args])
    assert caught.value.code == 0


def annotation(
    name: str, color: list[int], *rings: list[list[float]], kind: str = "Polygon"
) -> dict[str, Any]:
    """As QuPath 0.5 exports it."""
    return {
        "type": "Feature",
        "id": "6423a977-0000-4000-8000-000000000000",
        "geometry": {"type": kind, "coordinates": [*rings], "isEllipse": False},
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": color}},
    }


def test_from_qupath_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tissue = [[20.5, 10.2], [480.0, 35.5], [610.3, 300.0], [300, 440.7], [30, 380], [20.5, 10.2]]
    vessel = [[300.0, 200.0], [340.5, 200.0], [340.5, 250.0], [300.0, 250.0], [300.0, 200.0]]
    glands = [
        [[x + 50 * np.cos(t), y + 38.5 * np.sin(t)] for t in np.linspace(0, 2 * np.pi, 40)]
        for x, y in ((130, 150), (250, 300), (450, 200))
    ]
    drawn = [annotation("Stroma", [150, 200, 150], tissue, vessel)]
    drawn += [annotation("Gland", [200, 0, 0], gland) for gland in glands]
    Path("qupath.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": drawn}))

    run(masks.main, "from-geojson", "qupath.geojson", "drawn.zarr", "--size", "640,460", "--mpp", "1")
    forgotten = [[100.0, 230.0], [140.0, 230.0], [140.0, 270.0], [100.0, 270.0]]
    with serving(open_scene("drawn.zarr", None, model="identity")) as page:
        assert page.json("/info")["generator"] == "identity"
        assert page.ask("/tissue/0/0/0")[0] in (200, 204)
        stroke = {"tool": "polygon", "label": 2, "width": 1, "points": forgotten}
        assert page.json("/strokes", stroke) is True
        page.json("/save", {"name": "mask"})
    run(
        *(
            render.main,
            "mask.zarr",
            "slide.ome.tiff",
            "--stain",
            "random:3",
            "--workers",
            "1",
            "--threads",
            "1",
        ),
        *("--labels-out", "labels.ome.zarr", "--html", "slide.html", "--preview", "slide.png"),
    )
    run(masks.main, "to-geojson", "labels.ome.zarr", "back.geojson")
    run(masks.main, "from-geojson", "back.geojson", "again.zarr", "--like", "slide.ome.tiff")
    run(tiles.main, "slide.ome.tiff", "labels.ome.zarr", "tiles", "--size", "64", "--gap", "32")

    mask = open_mask("mask.zarr")
    labels, again = mask[:, :], open_mask("again.zarr")
    np.testing.assert_array_equal(again[:, :], labels)
    assert (again.mpp, mask.mpp) == (1.0, 1.0)
    back = json.loads(Path("back.geojson").read_text())["features"]
    classes = Counter(json.dumps(feature["properties"]["classification"]) for feature in back)
    assert classes == {
        '{"name": "Stroma", "color": [150, 200, 150]}': 1,
        '{"name": "Gland", "color": [200, 0, 0]}': 4,
    }
    (stroma,) = (one for one in back if one["properties"]["classification"]["name"] == "Stroma")
    assert len(stroma["geometry"]["coordinates"]) == 6  # with the vessel, and the glands
    assert (labels[230:270, 100:140] == 2).all(), "the gland that was added on the page"
    with openslide.OpenSlide("slide.ome.tiff") as slide:
        assert slide.dimensions == (640, 460)
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    light = [float(pixels[labels == value].mean()) for value in range(3)]
    assert light[0] > light[1] > light[2], "background, stroma and glands lie where they were drawn"
    manifest = json.loads(Path("tiles/manifest.json").read_text())
    assert manifest["slides"][0]["stain"] == "random:3"
    assert manifest["tiles"]["train"] > manifest["tiles"]["test"] > 0
    assert "Gland" in Path("slide.html").read_text()
