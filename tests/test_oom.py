"""A GPU without enough memory halves the batch once, and the pixels stay the same."""

from __future__ import annotations

import logging
import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import MEMORY, SmallGpu
from safron.engine import render
from safron.engine.generator.halving import Halving, is_out_of_memory
from safron.engine.generator.model import GeneratorInfo
from safron.engine.generator.warm_up import warm_up
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.prepare import prepare
from safron.io.errors import BadInput, Failed

MASK = np.random.default_rng(0).integers(1, 3, (300, 420), np.uint8)
OPTIONS: dict[str, Any] = {"tiff_tile": 64, "block": 128, "overlap": 12, "workers": 1, "executor": "threads"}


@pytest.fixture
def undisturbed(tmp_path: Path) -> str:
    return render(MASK, tmp_path / "whole.tiff", model=SmallGpu(most=99), batch=8, **OPTIONS).digest


@pytest.mark.parametrize("batch", [8, 7])
def test_memory_that_runs_out_half_way(
    batch: int, tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Eight calls of the warm-up: the batch, twice, its halves, its patches elsewhere, two side by side; then two that fit.
    model = SmallGpu(most=4, since=10)
    report = render(MASK, tmp_path / "out.tiff", model=model, batch=batch, **OPTIONS)
    assert report.digest == undisturbed
    assert set(model.sizes[10:]) == {4}
    assert report.run + report.painted == report.patches
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["cuda:0: out of memory; continues with a batch size of 4, same pixels"]


def test_a_generator_that_rounds_differently_stops_in_one_line(tmp_path: Path) -> None:
    model = SmallGpu(most=4, since=11, exact=False)
    with pytest.raises(
        Failed, match=r"out of memory with batch 8, .* start over with fresh=True batch 4"
    ) as failed:
        render(MASK, tmp_path / "out.tiff", model=model, batch=8, **OPTIONS)
    assert "\n" not in str(failed.value)
    model.most = 99
    assert render(MASK, tmp_path / "out.tiff", model=model, batch=8, **OPTIONS).resumed > 0


def test_a_batch_that_does_not_fit_from_the_start(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    report = render(MASK, tmp_path / "out.tiff", model=SmallGpu(most=4), batch=8, **OPTIONS)
    assert report.digest == undisturbed
    assert [record.getMessage() for record in caplog.records] == [
        "cuda:0: out of memory with a batch size of 8; 4 is used"
    ]


def test_the_batch_is_halved_once_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="out of memory"):
        render(MASK, tmp_path / "out.tiff", model=SmallGpu(most=3), batch=8, **OPTIONS)


def test_an_unfinished_render_keeps_the_batch_that_it_was_begun_with(
    tmp_path: Path, undisturbed: str
) -> None:
    """Half of its batch fitted then; today all of it would, and that might round differently."""

    class Stop(SmallGpu):
        def __call__(self, labels: Any, noise: Any = None) -> Any:
            if len(self.sizes) == 12:
                raise KeyboardInterrupt
            return super().__call__(labels, noise)

    with pytest.raises(KeyboardInterrupt):
        render(MASK, tmp_path / "out.tiff", model=Stop(most=4), batch=8, **OPTIONS)
    model = SmallGpu(most=99)
    report = render(MASK, tmp_path / "out.tiff", model=model, batch=8, **OPTIONS)
    assert report.resumed > 0
    assert report.digest == undisturbed
    assert 8 not in model.sizes[8:], "after the warm-up"


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError(MEMORY))
    assert is_out_of_memory(
        Failed("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")
    )
    assert not is_out_of_memory(RuntimeError("invalid argument"))


def test_other_failures_pass_through() -> None:
    model = SmallGpu(most=99)
    model.__class__ = type("Broken", (SmallGpu,), {"__call__": lambda *args: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        Halving(model, GeneratorInfo.of(model))(np.zeros((2, 72, 72), np.uint8))


def taken(size: int) -> mmap.mmap:
    """Resident memory that is not the heap's, which may have room from what ran before."""
    memory = mmap.mmap(-1, size)
    np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1
    return memory


class Hoarder(SmallGpu):
    """Takes memory once for libraries, and for each thread that calls, as CUDA's and ONNX Runtime's do."""

    ONCE, EACH = 256 << 20, 64 << 20

    def __init__(self) -> None:
        super().__init__(most=99)
        self.kept: dict[int | str, Any] = {}
        self.both = threading.Barrier(2, timeout=10)

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        for key, size in (("once", self.ONCE), (threading.get_ident(), self.EACH)):
            if key not in self.kept:
                self.kept[key] = taken(size)
        if "safron-warm-up" in threading.current_thread().name:
            self.both.wait()  # two calls at the same time, or the test fails
        return super().__call__(labels, noise)


def test_what_is_loaded_once_is_counted_once() -> None:
    options = RenderOptions(batch=4, model=SmallGpu(most=99), **OPTIONS)
    plan = prepare(MASK, "out.tiff", options, dry_run=True).plan
    model = Hoarder()
    found = warm_up(model, GeneratorInfo.of(model), plan)
    assert found.added_bytes >= 0.9 * (Hoarder.ONCE + Hoarder.EACH)
    assert found.bytes_of(1) == found.added_bytes
    # Other memory of this process may be given back meanwhile.
    assert 0.5 * Hoarder.EACH <= found.more_bytes < Hoarder.ONCE
    assert found.bytes_of(3) < 2 * found.added_bytes
