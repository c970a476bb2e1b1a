"""Batches that tasks share on a device: the same pixels as ever, few copies, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import RampModel
from plans import plan_for
from safron.engine import RenderOptions, render, rendering
from safron.engine.execution.batching import Strip
from safron.engine.execution.device_queue import DeviceQueue, SharedBatches, Stopped
from safron.engine.generator.host_memory import HostMemory
from safron.engine.generator.model import GeneratorInfo
from safron.engine.generator.warm_up import warm_up
from safron.engine.plan.estimates import batch_bytes, worker_bytes
from safron.engine.plan.planes import noise_spec
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.preparation import placement
from safron.engine.preparation.placement import choose_workers
from safron.engine.preparation.prepare import prepare
from safron.engine.scratch.task_result import Tally
from safron.engine.system.gpus import gpu_blocks
from safron.io.errors import BadInput, Failed

HEIGHT, WIDTH = 900, 1100
SIDE = 56  # of the small windows below: 16 and a context of 20
MASK = np.kron(
    np.random.default_rng(1).integers(0, 3, (HEIGHT // 50, WIDTH // 50)), np.ones((50, 50))
).astype(np.uint8)
OPTIONS: dict[str, Any] = {"tiff_tile": 64, "block": 256, "overlap": 12, "executor": "threads", "threads": 1}


class FakeGpu(RampModel):
    """A generator that says that it runs on a GPU.

    Parameters
    ----------
    seconds : of a call; calls take turns, as on a device.
    bad : a label whose windows, where it lies in their first pixel, cannot be run.
    same_places : whether the place of a patch in a batch changes nothing.
    """

    device = "cuda:0"

    def __init__(self, *, seconds: float = 0.0, bad: int | None = None, same_places: bool = True) -> None:
        super().__init__()
        self.seconds, self.bad, self.same_places = seconds, bad, same_places
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        self.turn = threading.Lock()

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        with self.turn:
            time.sleep(self.seconds)
        self.sizes.append(len(labels))
        self.threads.add(threading.current_thread().name)
        if self.bad is not None and len(self.sizes) > 8 and (labels[:, 0, 0] == self.bad).any():
            raise Failed("generator 'ramp' returned nan")
        image = super().__call__(labels, noise)
        return image if self.same_places else image + np.arange(len(labels))[:, None, None, None] / 64


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the slide that one thread makes, a patch at a time."""
    out = tmp_path_factory.mktemp("serial") / "slide.tiff"
    return render(MASK, out, model=RampModel(), batch=1, workers=1, **OPTIONS).digest


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch", [2, 7, 32])
def test_the_slide_is_the_same(tmp_path: Path, digest: str, workers: int, batch: int) -> None:
    model = FakeGpu()
    report = render(MASK, tmp_path / "s.tiff", model=model, batch=batch, workers=workers, **OPTIONS)
    assert report.digest == digest
    assert report.run + report.painted == report.patches
    assert {name.rpartition("-")[0] for name in model.threads - {"MainThread"}} == {
        "safron-device",
        "safron-warm",
    }


def test_a_device_that_is_busy_runs_few_copies(
    tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has 25 patches and its seams 11: two fifths of batches of its own alone are copies."""

    def copies(folder: str) -> int:
        model = FakeGpu(seconds=0.02)
        out = tmp_path / folder
        out.mkdir()
        report = render(MASK, out / "s.tiff", model=model, batch=16, workers=6, **OPTIONS)
        assert report.digest == digest
        return sum(model.sizes[8:]) - report.run

    shared = copies("shared")
    decide = rendering.open_pool
    monkeypatch.setattr(
        rendering,
        "open_pool",
        lambda model, info, plan: decide(model, replace(info, same_places=False), plan),
    )
    assert 0 <= shared < copies("own") / 2


def test_a_generator_that_looks_at_its_batch_shares_none(tmp_path: Path) -> None:
    """As one that is quantized by the range of the batch: beside other patches it is another."""

    class Scaled(FakeGpu):
        def __call__(self, labels: Any, noise: Any = None) -> Any:
            image = super().__call__(labels, noise)
            step = image.max() / 100
            return np.round(image / step) * step

    model = Scaled()
    render(MASK, tmp_path / "s.tiff", model=model, batch=8, workers=4, **OPTIONS)
    assert not any(name.startswith("safron-device") for name in model.threads)


def test_where_the_place_in_a_batch_shows_tasks_keep_to_themselves(tmp_path: Path) -> None:
    digests = set()
    for workers in (1, 4):
        model = FakeGpu(same_places=False)
        made = render(MASK, tmp_path / f"{workers}.tiff", model=model, batch=8, workers=workers, **OPTIONS)
        digests.add(made.digest)
        assert not any(name.startswith("safron-device") for name in model.threads)
    assert len(digests) == 1


def test_a_patch_that_cannot_be_run_fails_its_own_block_alone(tmp_path: Path) -> None:
    mask = np.minimum(MASK, 1)
    mask[7 * 52 - 4, 7 * 52 - 4] = 2  # where the window of an inner patch of the block (1, 1) begins
    with pytest.raises(Failed, match=r"^1 block failed 3 times each: \(1, 1\) at .*returned nan"):
        render(mask, tmp_path / "s.tiff", model=FakeGpu(bad=2), batch=32, workers=4, **OPTIONS)
    again = render(mask, tmp_path / "s.tiff", model=FakeGpu(), batch=32, workers=4, **OPTIONS)
    assert again.resumed == again.blocks - 1 == 19
    whole = render(mask, tmp_path / "whole.tiff", model=RampModel(), batch=1, workers=1, **OPTIONS)
    assert again.digest == whole.digest


def test_an_interrupted_render_ends_and_goes_on(tmp_path: Path, digest: str) -> None:
    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > 150:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        render(MASK, tmp_path / "s.tiff", model=FakeGpu(), batch=8, workers=1, progress=stop, **OPTIONS)
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)  # a call of the generator may have to return first
    assert threading.active_count() == before, "no thread is left"
    report = render(MASK, tmp_path / "s.tiff", model=FakeGpu(), batch=8, workers=4, **OPTIONS)
    assert report.resumed > 0
    assert report.digest == digest


def a_plan(batch: int) -> RenderPlan:
    return plan_for(400, 4000, tile=16, overlap=4, block=256, slide_tile=64, batch=batch, planes=())


class Echo:
    """Gives each patch the first label of its window; some calls fail."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        time.sleep(self.random.random() / 500)
        if self.random.random() < 0.02:
            raise Failed("now and then")
        return np.broadcast_to(labels[:, :1, :1, None], (len(labels), 16, 16, 3)).copy()


@pytest.mark.parametrize("seed", range(4))
def test_each_task_gets_its_own(seed: int) -> None:
    """Tasks of any length push rows of any length, some give up half way; all others get what is theirs."""
    plan = a_plan(batch=3 + seed * 3)

    def task(number: int) -> int:
        own = random.Random(f"{seed} {number}")
        got: list[tuple[int, int]] = []
        pushed = []
        first = Window(0, 0, 16, 16)

        def deliver(values: Any, where: Window) -> None:
            got.extend((int(value[0, 0, 0]), where.x + 12 * index) for index, value in enumerate(values))

        try:
            with SharedBatches(queue, Tally(), lambda count: None) as batches:
                for _ in range(own.randrange(12)):
                    labels = np.array([own.randrange(256) for _ in range(own.randint(1, 20))], np.uint8)
                    x = 12 * own.randrange(100)
                    pushed += [(int(label), x + 12 * index) for index, label in enumerate(labels)]
                    windows = np.broadcast_to(labels[:, None, None], (len(labels), SIDE, SIDE))
                    batches.push(Strip({"labels": windows}, first.shift(0, x), 12, deliver))
                    if own.random() < 0.03:
                        raise KeyError("gives up")
        except (KeyError, Failed):
            return 0
        assert sorted(got) == sorted(pushed)
        return len(got)

    model: Any = Echo(seed)
    with DeviceQueue(model, plan, HostMemory("cpu")) as queue, ThreadPoolExecutor(6) as threads:
        done = list(threads.map(task, range(120), timeout=120))
    assert sum(map(bool, done)) > 60


def test_who_waits_when_the_queue_ends_is_told() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(labels: Any, noise: Any = None) -> Any:
        begun.set()
        go_on.wait(60)
        return np.zeros((len(labels), 16, 16, 3), np.uint8)

    def task() -> None:
        with SharedBatches(queue, Tally(), lambda count: None) as batches:
            windows = np.zeros((3, SIDE, SIDE), np.uint8)
            batches.push(Strip({"labels": windows}, Window(0, 0, 16, 16), 12, lambda *_: None))

    model: Any = slow
    queue = DeviceQueue(model, a_plan(batch=4), HostMemory("cpu"))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(task)
        assert begun.wait(60)
        ending = threading.Thread(target=queue.close)
        ending.start()
        with pytest.raises(Stopped):
            waiting.result(60)
        go_on.set()
        ending.join(60)
    assert not ending.is_alive()


@pytest.mark.parametrize("same", [True, False])
def test_the_warm_up_sees_whether_places_matter(same: bool) -> None:
    model = FakeGpu(same_places=same)
    plan = plan_for(
        400, 400, tile=64, overlap=4, block=256, slide_tile=64, batch=5, planes=noise_spec((1, 8))
    )
    assert warm_up(model, GeneratorInfo.of(model), plan).info.same_places is same


def test_memory_of_batches_does_not_grow_with_workers(tmp_path: Path) -> None:
    few, many = (
        prepare(
            MASK, str(tmp_path / "s.tiff"), RenderOptions(model=FakeGpu(), batch=256, workers=n, **OPTIONS)
        )
        for n in (5, 25)
    )
    more = many.projected_bytes - few.projected_bytes - 20 * worker_bytes(few.plan)
    assert abs(more) < 3 * batch_bytes(few.plan, returns_uint8=False), (
        "25 batches of their own would be 20 more"
    )


def test_an_interrupt_on_a_thread_ends_the_render(tmp_path: Path) -> None:
    """It comes from what the user gave: a generator, or a progress function."""

    class Stop(RampModel):
        def __call__(self, labels: Any, noise: Any = None) -> Any:
            if self.calls > 50:
                raise KeyboardInterrupt
            return super().__call__(labels, noise)

    with pytest.raises(KeyboardInterrupt):
        render(MASK, tmp_path / "s.tiff", model=Stop(), batch=1, workers=3, **OPTIONS)


@pytest.mark.parametrize(
    ("device", "where", "given", "workers"),
    [
        ("cpu", "threads", {}, 2),
        ("cuda:0", "threads", {}, 4),
        ("cuda:0", "threads", {"workers": 1}, 1),
        ("cuda:0", "processes", {}, 2),
        ("cuda:0", "processes", {"memory": 5 << 30}, 2),
        ("cuda:0", "processes", {"memory": 64 << 30}, 3),
        ("cpu", "processes", {"memory": 64 << 30, "device": "cpu"}, 2),
    ],
)
def test_workers_unless_given(
    device: str, where: Any, given: dict[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert choose_workers(RenderOptions(**given), where, device) == workers


@pytest.mark.parametrize(("cores", "blocks"), [(2, 4), (8, 6), (16, 12), (64, 12)])
def test_blocks_in_flight_beside_a_gpu_follow_the_cores(
    cores: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "usable_cores", lambda: cores)
    assert choose_workers(RenderOptions(), "threads", "cuda:0") == blocks
    assert gpu_blocks(cores) == blocks


def test_they_are_fewer_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where the user gave a number: then the plan is refused with both numbers."""
    monkeypatch.setattr(placement, "usable_cores", lambda: 16)
    out = str(tmp_path / "s.tiff")
    options = RenderOptions(model=FakeGpu(), batch=8, **OPTIONS)
    most = prepare(MASK, out, options)
    assert most.options.workers == 12
    least = prepare(MASK, out, replace(options, workers=4))
    between = (most.budget.total + least.budget.total) // 2
    fitted = prepare(MASK, out, replace(options, memory=between))
    assert fitted.options.workers is not None
    assert 4 < fitted.options.workers < 12
    with pytest.raises(BadInput, match="lower --workers 12"):
        prepare(MASK, out, replace(options, workers=12, memory=between))
