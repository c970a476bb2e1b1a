"""A virtual slide has the pixels of the finished lossless slide, makes nothing twice, and keeps within its memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from masks import blobs
from models import RampModel
from openslide.deepzoom import DeepZoomGenerator
from safron.engine import VirtualSlide, render
from safron.engine.virtual.cache import Cache
from safron.io.errors import BadInput
from safron.io.masks.open import open_mask

SMALL = {"tile": 64, "tiff_tile": 64, "mpp": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"taper": "linear", "overlap": 24},
    "cosine, four patches a pixel": {"taper": "cosine", "overlap": 40},
    "no overlap": {"overlap": 0},
    "another seed": {"seed": 7, "compression": "none"},
    "mask half as fine": {"mpp": 2.0, "tiff_tile": 32},
    "mask finer": {"mpp": 0.7},
    "region": {"region": (33, 21, 201, 222)},
    "stained": {
        "stain": "violet",
        "stain_field": 0.3,
        "align": True,
        "level_count": 3,
        "region": (33, 21, 201, 222),
    },
    "padded": {"align": True, "level_count": 4},
    "all levels": {"level_count": 9},
    "tiles that decide the size of levels": {"tiff_tile": 16},
}


def slide_levels(path: Path) -> list[np.ndarray[Any, Any]]:
    """All levels of a slide."""
    with tifffile.TiffFile(path) as file:
        return [level.asarray() for level in file.series[0].levels]


@pytest.mark.parametrize("name", CASES)
def test_every_region_of_every_level_is_that_of_the_finished_slide(name: str, tmp_path: Path) -> None:
    mask, options = blobs(297, 331, seed=3), {**SMALL, "compression": "deflate"} | CASES[name]
    render(mask, tmp_path / "slide.tiff", model=RampModel(), workers=1, block=128, **options)
    levels = slide_levels(tmp_path / "slide.tiff")
    random = np.random.default_rng(0)
    with VirtualSlide(mask, model=RampModel(), **options) as slide:
        assert slide.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in levels)
        for number, level in enumerate(levels):
            padded = np.pad(level, ((99, 99), (99, 99), (0, 0)))
            inside = np.pad(np.full(level.shape[:2], 255, np.uint8), 99)
            for _ in range(200):
                y, x = (int(random.integers(-60, side)) for side in level.shape[:2])
                height, width = random.integers(1, 80, 2).tolist()
                size = min(width, level.shape[1] + 90 - x), min(height, level.shape[0] + 90 - y)
                region = np.asarray(slide.read_region((x << number, y << number), number, size))
                there = slice(y + 99, y + 99 + size[1]), slice(x + 99, x + 99 + size[0])
                np.testing.assert_array_equal(region[..., 3], inside[there])
                np.testing.assert_array_equal(region[..., :3], padded[there])


def test_the_shipped_generator_gives_the_same_pixels_too(tmp_path: Path) -> None:
    mask = blobs(200, 260, seed=1)
    options: dict[str, Any] = {"threads": 1, "mpp": 1.0, "compression": "none", "device": "cpu", "tile": 128}
    render(mask, tmp_path / "slide.tiff", workers=1, **options)
    levels = slide_levels(tmp_path / "slide.tiff")
    with VirtualSlide(mask, **options) as slide:
        for number, level in enumerate(levels):
            whole = slide.read_region((0, 0), number, slide.level_dimensions[number])
            np.testing.assert_array_equal(np.asarray(whole)[..., :3], level)


def test_code_that_was_written_for_openslide_runs_on_it() -> None:
    mask = blobs(500, 700, seed=2)
    with VirtualSlide(mask, model=RampModel(), **(SMALL | {"mpp": 0.5})) as slide:
        assert slide.dimensions == (700, 500)
        assert slide.level_downsamples == (1.0, 2.0, 4.0)[: slide.level_count]
        assert [slide.get_best_level_for_downsample(step) for step in (0.5, 1, 1.9, 2, 99)] == [
            0, 0, 0, 1, slide.level_count - 1,
        ]  # fmt: skip
        assert (slide.properties["openslide.mpp-x"], slide.properties["safron.Seed"]) == ("0.5", "0")
        assert not slide.associated_images
        assert slide.get_thumbnail((70, 70)).size == (70, 50)
        deep = DeepZoomGenerator(slide, tile_size=100, overlap=0, limit_bounds=True)
        tile = deep.get_tile(deep.level_count - 1, (3, 2))
        np.testing.assert_array_equal(
            np.asarray(tile), np.asarray(slide.read_region((300, 200), 0, (100, 100)))[..., :3]
        )
        with pytest.raises(ValueError, match="level 9: the slide has levels 0 to"):
            slide.read_region((0, 0), 9, (1, 1))
    with pytest.raises(ValueError, match="closed"):
        slide.read_region((0, 0), 0, (1, 1))


class Counted(RampModel):
    """Takes a while, and remembers each window of labels that it was given.

    A window is known by its first noise value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        time.sleep(0.002)
        self.seen += noise[:, 0, 0, 0].tolist()
        return super().__call__(labels, noise)


def test_many_readers_at_once_generate_no_patch_twice() -> None:
    model, mask = Counted(), np.ones((300, 400), np.uint8)
    with VirtualSlide(mask, model=model, **SMALL) as slide, ThreadPoolExecutor(16) as threads:
        jobs = [(level, y, x) for level in (0, 1, 2) for y in range(0, 300, 60) for x in range(0, 400, 50)]
        list(threads.map(lambda job: slide.read_region((job[2], job[1]), job[0], (60, 60)), jobs))
        assert len(model.seen) == len({*model.seen}) == slide.plan.patches
        list(threads.map(lambda job: slide.read_region((job[2], job[1]), job[0], (60, 60)), jobs))
        assert len(model.seen) == slide.plan.patches


def test_a_region_generates_only_the_patches_that_write_into_it() -> None:
    model, mask = Counted(), np.ones((600, 600), np.uint8)
    with VirtualSlide(mask, model=model, **SMALL) as slide:  # patches are 44 px apart
        slide.read_region((44, 44), 0, (20, 20))
        assert len(model.seen) == 4
        slide.read_region((64, 64), 0, (24, 24))
        assert len(model.seen) == 4
        slide.read_region((64, 64), 0, (44, 25))
        assert len(model.seen) == 7


def test_what_is_kept_stays_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = blobs(900, 900, seed=4)
    with VirtualSlide(mask, model=RampModel(), **SMALL) as slide:
        whole = np.asarray(slide.read_region((0, 0), 2, slide.level_dimensions[2]))
    with VirtualSlide(mask, model=RampModel(), **SMALL) as slide:
        monkeypatch.setattr(slide._cache, "max_bytes", 500_000)
        for _ in range(2):
            np.testing.assert_array_equal(
                np.asarray(slide.read_region((0, 0), 2, slide.level_dimensions[2])), whole
            )
            assert 0 < slide._cache.nbytes <= 500_000
        assert slide._cache.nbytes == sum(map(slide._size, slide._cache._kept.values()))


def test_too_little_memory_is_refused_with_both_numbers() -> None:
    with pytest.raises(BadInput, match=r"^memory 1 MiB: a view needs \d+ MiB at least, 64 of them"):
        VirtualSlide(np.zeros((9, 9), np.uint8), model="identity", memory=1 << 20)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="no option 'scratch'"):
        VirtualSlide(np.zeros((9, 9), np.uint8), scratch="here")
    with pytest.raises(BadInput, match=r"^overlap 300: must be at least 0 and smaller than tile 256"):
        VirtualSlide(np.zeros((9, 9), np.uint8), model="identity", overlap=300)


def test_an_unknown_label_is_named_where_it_is_read() -> None:
    mask = np.ones((300, 300), np.uint8)
    mask[250, 260] = 9
    with VirtualSlide(mask, model=RampModel(), **SMALL) as slide:
        slide.read_region((0, 0), 0, (50, 50))
        for _ in range(2):
            with pytest.raises(BadInput, match="label 9 at x=260, y=250 is unknown to generator 'ramp'"):
                slide.read_region((240, 240), 0, (50, 50))


def test_peek_shows_what_is_there_and_renders_nothing() -> None:
    model, mask = Counted(), np.ones((700, 900), np.uint8)
    with VirtualSlide(mask, model=model, **SMALL) as slide:
        assert slide.peek(2, 0, 0) is None
        slide.tile(0, 1, 1)
        made = len(model.seen)
        pixels, there = slide.peek(2, 0, 0) or (None, None)
        assert pixels is not None
        assert there is not None
        assert pixels.shape == (175, 225, 3)
        assert (there[64:128, 64:128] == 255).all()
        assert np.count_nonzero(there) == 64 * 64
        assert len(model.seen) == made
        whole = slide.tile(2, 0, 0)
        np.testing.assert_array_equal(pixels[64:128, 64:128], whole[64:128, 64:128])
        pixels, there = slide.peek(2, 0, 0) or (None, None)
        np.testing.assert_array_equal(pixels, whole)
        assert there is not None
        assert there.all()


@pytest.mark.parametrize("mpp", [1.0, 0.6, 1.7])
def test_changed_labels_are_rendered_again_and_nothing_else(mpp: float) -> None:
    labels, model = blobs(500, 500, seed=5), Counted()
    mask = open_mask(labels)
    options = SMALL | {"mpp": mpp}
    with VirtualSlide(mask, model=model, **options) as slide:
        slide.tile(1, 0, 0)
        made = len(model.seen)
        labels[200:230, 210:222] = 1
        mask.keep_chunks(block=64, workers=1)  # an array in memory is read as it was, where chunks are kept
        slide.forget(slide.plan.canvas.clip(type(slide.plan.canvas)(200, 210, 30, 12)))
        after = np.array(slide.tile(1, 0, 0))
        assert made < len(model.seen) < 2 * made
    with VirtualSlide(labels, model=RampModel(), **options) as slide:
        np.testing.assert_array_equal(after, slide.tile(1, 0, 0))


def test_a_value_whose_maker_failed_is_made_by_the_next() -> None:
    cache: Cache[bytes] = Cache(10, len, lambda key, change: None)
    key, begun, fail = (0, 0, 0), threading.Event(), threading.Event()

    def failing(keys: Any) -> Any:
        begun.set()
        fail.wait()
        raise OSError("gone")
        yield

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.many, [key], failing)
        begun.wait()
        second = threads.submit(cache.many, [key], lambda keys: [(key, b"made")])
        fail.set()
        with pytest.raises(OSError, match="gone"):
            first.result()
        assert second.result() == {key: b"made"}


def test_what_is_forgotten_while_it_is_made_is_not_kept() -> None:
    cache: Cache[bytes] = Cache(10, len, lambda key, change: None)
    key = (0, 0, 0)

    def make(keys: Any) -> Any:
        cache.drop(lambda key: True)
        yield key, b"old"

    assert cache.many([key], make) == {key: b"old"}
    assert cache.get(key) is None
    assert cache.many([key], lambda keys: [(key, b"new")]) == {key: b"new"}
    assert cache.get(key) == b"new"
