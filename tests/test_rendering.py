"""A render equals the oracle, whoever ran it and however it was cut up."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from masks import blobs
from models import RampModel
from oracle import render_whole
from plans import expected
from safron.engine import IdentityModel, RenderReport, load_model, render
from safron.engine.generator.card import Label
from safron.engine.plan.taper import Taper, TaperName
from safron.io.errors import BadInput


def level0(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(tifffile.imread(path, level=0))


def check_counts(report: RenderReport) -> None:
    assert report.generated + report.filled == report.patches


SIZES = [(1, 1), (255, 257), (256, 256), (491, 493), (700, 90), (64, 1100)]


@pytest.mark.parametrize("outside", [None, 0, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_oracle(tmp_path: Path, size: tuple[int, int], outside: int | None) -> None:
    mask, model = blobs(*size), RampModel(outside=outside)
    report = render(
        mask,
        tmp_path / "s.tiff",
        model=model,
        overlap=12,
        compression="deflate",
        block=128,
        tiff_tile=64,
        seed=5,
    )
    np.testing.assert_array_equal(
        level0(tmp_path / "s.tiff"), expected(mask, model, tile=64, overlap=12, seed=5)
    )
    check_counts(report)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 330),
    width=st.integers(1, 330),
    tile=st.sampled_from([32, 48, 60, 64]),
    share=st.floats(0, 0.5),
    taper=st.sampled_from(["flat", "linear", "cosine"]),
    outside=st.sampled_from([None, 0, 1]),
    block=st.sampled_from([64, 80, 128, 256]),
    batch=st.integers(1, 5),
    workers=st.sampled_from([1, 1, 1, 3]),
    seed=st.integers(0, 2**64 - 1),
)
# Without overlap seams hold no sums; so many blocks read theirs again from disk.
@example(
    height=97,
    width=161,
    tile=32,
    share=0.0,
    taper="flat",
    outside=None,
    block=80,
    batch=1,
    workers=1,
    seed=0,
)
def test_any_cut_equals_oracle(
    tmp_path: Path, height: int, width: int, tile: int, share: float, **drawn: Any
) -> None:
    mask, overlap = blobs(height, width, seed=drawn["seed"] % 1000, cell=23), int(share * tile)
    model = RampModel(tile=tile, outside=drawn.pop("outside"))
    out = tmp_path / "any.tiff"
    report = render(
        mask, out, model=model, overlap=overlap, compression="lzw", tiff_tile=16, overwrite=True, **drawn
    )
    want = expected(mask, model, tile=tile, overlap=overlap, taper=drawn["taper"], seed=drawn["seed"])
    np.testing.assert_array_equal(level0(out), want)
    check_counts(report)


@pytest.mark.parametrize("overlap", [40, 56], ids=lambda overlap: f"{overlap} of 64")
def test_more_than_two_patches_on_a_pixel(tmp_path: Path, overlap: int) -> None:
    mask, model = blobs(200, 210), RampModel()
    render(
        mask,
        tmp_path / "s.tiff",
        model=model,
        overlap=overlap,
        taper="linear",
        compression="lzw",
        block=128,
        tiff_tile=64,
    )
    want = expected(mask, model, tile=64, overlap=overlap, taper="linear")
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), want)


@pytest.mark.parametrize("taper", ["flat", "linear", "cosine"])
@pytest.mark.parametrize("size", [(1, 1), (255, 257), (2049, 1501)], ids=str)
def test_identity_reproduces_the_coloured_mask(
    tmp_path: Path, size: tuple[int, int], taper: TaperName
) -> None:
    mask, model = blobs(*size, labels=4), IdentityModel()
    report = render(mask, tmp_path / "s.tiff", model=model, taper=taper, compression="deflate", block=1024)
    colors = np.zeros((256, 3), np.uint8)
    for value, color in model.card.palette.items():
        colors[value] = color
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), colors[mask])
    assert (report.generated, report.filled) == (report.patches, 0)


def specks(height: int, width: int) -> np.ndarray[Any, Any]:
    """A mask that is mostly glass, with tissue at its far corner and where four blocks meet."""
    mask = np.zeros((height, width), np.uint8)
    for y, x in ((512, 512), (height, width), (250, 30)):
        part = mask[max(0, y - 70) : y + 70, max(0, x - 70) : x + 70]
        part[:] = blobs(*part.shape, cell=150, seed=y)
    return mask


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        pytest.param(blobs(255, 257, cell=150), {"tile": 256, "block": 512}, id="255 x 257"),
        pytest.param(blobs(350, 260, cell=75), {"tile": 128, "block": 256, "tiff_tile": 256}, id="350 x 260"),
        pytest.param(specks(1025, 751), {"tile": 256, "block": 512}, id="1025 x 751"),
    ],
)
def test_shipped_generator_equals_oracle(
    tmp_path: Path, mask: np.ndarray[Any, Any], options: dict[str, Any]
) -> None:
    model = load_model("safron-seamless", device="cpu")
    options = options | {"model": "safron-seamless", "device": "cpu"}
    render(mask, tmp_path / "s.tiff", compression="deflate", seed=3, **options)
    want = expected(mask, model, tile=options["tile"], overlap=20, seed=3)
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), want)


def test_fixed_point_is_the_mean(tmp_path: Path) -> None:
    """Against plain float64 sums: never off by more than the last rounding."""
    mask, model = blobs(300, 200), RampModel()
    coarse = expected(mask, model, tile=64, overlap=20, taper="cosine")
    weights = Taper("cosine").weights(tile=64, overlap=20)
    fine = render_whole(mask, model, tile=64, overlap=20, weights=weights, bits=30)
    difference = np.abs(coarse.astype(int) - fine)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


def test_same_digest_for_any_workers_blocks_batches_and_runs(tmp_path: Path) -> None:
    mask = blobs(700, 900, cell=150)
    ways: list[dict[str, Any]] = [
        {"workers": 1, "block": 128},
        {"workers": 1, "block": 128},
        {"workers": 4, "block": 128},
        {"workers": 4, "block": 256, "batch": 7},
        {"workers": 1, "block": 512, "batch": 3},
        {"workers": 2, "block": None},
    ]
    digests = set()
    for number, way in enumerate(ways):
        model = RampModel()
        report = render(mask, tmp_path / f"{number}.tiff", model=model, tiff_tile=128, **way)
        digests.add(report.digest)
        check_counts(report)
        assert report.filled > 0
    assert len(digests) == 1
    assert (
        render(mask, tmp_path / "seed.tiff", model=RampModel(), tiff_tile=128, seed=1).digest not in digests
    )


def test_each_patch_runs_once(tmp_path: Path) -> None:
    mask, model = blobs(700, 900), RampModel()
    report = render(mask, tmp_path / "s.tiff", model=model, workers=1, block=256, tiff_tile=128)
    assert model.calls == report.generated + 2, "two more than patches: the warm-up before the render"


def test_glass_is_never_run(tmp_path: Path) -> None:
    mask, model = np.zeros((500, 400), np.uint8), RampModel()
    report = render(mask, tmp_path / "s.tiff", model=model, compression="deflate", tiff_tile=128)
    assert (report.generated, report.filled) == (0, report.patches)
    assert (level0(tmp_path / "s.tiff") == model.card.background).all()
    assert (tmp_path / "s.tiff").stat().st_size < 30_000, "glass tiles share their bytes"


@pytest.mark.parametrize("fills", [(), (5,), (0, 5)])
def test_glass_of_any_labels(tmp_path: Path, fills: tuple[int, ...]) -> None:
    """Labels with gaps between them, of which none, one or two are glass."""
    model = RampModel()
    labels = tuple(
        Label(value, f"label {value}", (value, 0, 0), fill=(240, value, 9) if value in fills else None)
        for value in (0, 3, 5)
    )
    model.card = replace(model.card, labels=labels)
    mask = np.array([0, 3, 5], np.uint8)[blobs(500, 600, cell=260)]
    options: dict[str, Any] = {"model": model, "tile": 64, "overlap": 8, "block": 128, "tiff_tile": 128}
    report = render(mask, tmp_path / "s.tiff", compression="deflate", **options)
    whole = expected(mask, model, tile=64, overlap=8)
    assert (level0(tmp_path / "s.tiff") == whole).all()
    assert (report.filled > 0) == bool(fills)
    mask[70, 80] = 4
    with pytest.raises(BadInput, match=r"label 4 at x=80, y=70 .* knows 0 label 0, 3 label 3, 5 label 5"):
        render(mask, tmp_path / "t.tiff", **options)


@pytest.mark.parametrize("lists", [True, False])
def test_a_mask_from_a_web_server(tmp_path: Path, lists: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It does not say when files change, and may not even list them."""
    pytest.importorskip("aiohttp")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None:
            pass

        def list_directory(self, path: Any) -> Any:
            return super().list_directory(path) if lists else self.send_error(404)

    labels = blobs(300, 400)
    zarr.create_array(tmp_path / "m.zarr", data=labels, chunks=(128, 128))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/m.zarr"
            options: dict[str, Any] = {"model": "identity", "compression": "deflate", "tiff_tile": 128}
            render(url, tmp_path / "s.tiff", **options)
        finally:
            server.shutdown()
    assert (level0(tmp_path / "s.tiff") == IdentityModel(context=0)(labels[None])[0]).all()
    assert "does not say when files change" in caplog.text


def test_a_region_is_a_cut_of_the_whole(tmp_path: Path) -> None:
    mask, model = blobs(700, 900), RampModel()
    options: dict[str, Any] = {"model": model, "compression": "deflate", "tiff_tile": 64, "block": 128}
    render(mask, tmp_path / "whole.tiff", **options)
    report = render(mask, tmp_path / "part.tiff", region=(333, 111, 301, 257), **options)
    part = level0(tmp_path / "whole.tiff")[111 : 111 + 257, 333 : 333 + 301]
    np.testing.assert_array_equal(level0(tmp_path / "part.tiff"), part)
    check_counts(report)


def test_align_may_pad_by_more_than_a_block(tmp_path: Path) -> None:
    """14 levels are aligned to 8192 rows: whole blocks, and a scan block, hold no canvas at all."""
    mask = blobs(40, 8200)
    for name, region in (("whole", None), ("part", (0, 0, 8192, 30))):
        out = tmp_path / f"{name}.tiff"
        report = render(mask, out, model=RampModel(), align=True, level_count=14, region=region, workers=1)
        check_counts(report)
        assert report.height == 8192
        assert report.mask_fingerprint


def test_align_pads_with_glass(tmp_path: Path) -> None:
    mask, model = np.maximum(blobs(300, 333), 1), RampModel()
    options: dict[str, Any] = {"model": model, "compression": "deflate", "tiff_tile": 32, "block": 64}
    report = render(mask, tmp_path / "s.tiff", align=True, **options)
    made = level0(tmp_path / "s.tiff")
    step = 1 << (report.levels - 1)
    assert (report.height % step, report.width % step) == (0, 0)
    np.testing.assert_array_equal(made[:300, :333], expected(mask, model, tile=64, overlap=20))
    assert (made[300:] == model.card.background).all()
    assert (made[:, 333:] == model.card.background).all()


# All sides of the second are rounded up, across the edges of blocks: 1025, 513, 257, 129, 65, 33.
@pytest.mark.parametrize("size", [(1111, 905), (1025, 514)])
def test_levels_are_halved_from_the_level_above(size: tuple[int, int], tmp_path: Path) -> None:
    from safron.io.slides.pyramid import Pyramid, halve

    options: dict[str, Any] = {"compression": "none", "tiff_tile": 32, "block": 256, "level_count": 7}
    report = render(blobs(*size), tmp_path / "s.tiff", model=RampModel(), **options)
    with tifffile.TiffFile(tmp_path / "s.tiff") as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert len(levels) == report.levels == 7
    wanted = Pyramid(*size, 32, 7).levels
    assert [level.shape[:2] for level in levels] == [(level.height, level.width) for level in wanted]
    for above, below in pairwise(levels):
        np.testing.assert_array_equal(below, halve(above)[: below.shape[0], : below.shape[1]])


def test_only_the_slide_is_left(tmp_path: Path) -> None:
    render(blobs(900, 900), tmp_path / "s.tiff", model=RampModel(), tiff_tile=64, block=256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tiff"]


def test_unknown_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="overlapp"):
        render(np.zeros((9, 9), np.uint8), tmp_path / "s.tiff", overlapp=3)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"taper": "zzz"}, "taper 'zzz': must be 'flat', 'linear' or 'cosine'"),
    ({"region": (0, 0, 100)}, "region (0, 0, 100): must be 4 whole numbers or None"),
    ({"region": "0,0,5,5"}, "region '0,0,5,5': must be 4 whole numbers or None"),
    ({"region": (0.0, 0.0, 5.0, 5.0)}, "region (0.0, 0.0, 5.0, 5.0): must be 4 whole numbers or None"),
    ({"memory": "4GiB"}, "memory '4GiB': must be a whole number"),
    ({"level_count": "3"}, "level_count '3': must be a whole number or 'auto'"),
    ({"level_count": None}, "level_count None: must be a whole number or 'auto'"),
    ({"model": None}, "model None: must be text, a path or a generator"),
    ({"model": 7}, "model 7: must be text, a path or a generator"),
    ({"tile": 256.0}, "tile 256.0: must be a whole number or None"),
    ({"quality": 90.5}, "quality 90.5: must be a whole number, 1 to 100"),
    ({"seed": 1.5}, "seed 1.5: must be a whole number"),
    ({"seed": np.arange(3)}, "seed array([0, 1, 2]): must be a whole number"),
    ({"workers": True}, "workers True: must be a whole number, at least 1, or None"),
    ({"mpp": "0.5"}, "mpp '0.5': must be a number or None"),
    ({"overwrite": "yes"}, "overwrite 'yes': must be True or False"),
    ({"report": 3}, "report 3: must be a path or None"),
    ({"scratch": b"x"}, "scratch b'x': must be text, a path or None"),
    ({"executor": "fork"}, "executor 'fork': must be 'auto', 'threads', 'dask' or 'processes'"),
    ({"chroma": 420}, "chroma 420: must be '420' or '444'"),
]


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_value_of_another_type_is_refused_in_one_line(
    tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput) as refused:
        render(np.zeros((9, 9), np.uint8), tmp_path / "s.tiff", **{"model": "identity"} | given)
    assert str(refused.value) == says
    assert not list(tmp_path.iterdir())


def test_values_that_mean_the_same_are_taken(here: Path) -> None:
    given: dict[str, Any] = {
        "model": RampModel(),
        "tile": np.int32(64),
        "seed": np.int64(3),
        "tiff_tile": np.uint16(64),
        "region": np.array([5, 6, 70, 80]),
        "mpp": np.float32(0.5),
        "taper": np.str_("linear"),
        "overwrite": np.True_,
        "preview": "p.png",
        "report": "r.json",
        "scratch": ".",
    }
    plain = {"tile": 64, "seed": 3, "tiff_tile": 64, "region": (5, 6, 70, 80), "mpp": 0.5, "taper": "linear"}
    mask = blobs(100, 110)
    report = render(mask, "s.tiff", **given)
    assert report.digest == render(mask, "t.tiff", model=RampModel(), **plain).digest
    assert json.loads(Path("r.json").read_text())["options"]["seed"] == 3
    assert cv2.imread("p.png").shape == (80, 70, 3)


def test_a_taper_has_one_of_three_names() -> None:
    with pytest.raises(BadInput, match="--taper zzz: must be one of flat, linear, cosine"):
        Taper("zzz")  # type: ignore[arg-type]
