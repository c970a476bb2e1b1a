"""Is benchmarks/peers.py fair in what can be checked without the peers? Grid, mean, blocks, and what it says of runs not made."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from oracle import render_whole
from safron.engine import load_model
from safron.engine.plan.grid import PatchGrid

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def peers(load_bench: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module; what it runs in other environments can be imported, too."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    return load_bench("peers")


@pytest.fixture
def labels() -> npt.NDArray[np.uint8]:
    """Blobs of three labels, 600 x 850."""
    y, x = np.mgrid[:600, :850]
    return ((np.sin(y / 31) + np.cos(x / 47) + 2) * 0.7).astype(np.uint8)


@pytest.fixture
def cheap(peers: Any, tmp_path: Path) -> Path:
    path = tmp_path / "cheap.onnx"
    peers.write_cheap(path)
    return path


def test_the_cheap_generator_keeps_the_contract_and_its_patches_disagree(
    peers: Any, cheap: Path, tmp_path: Path
) -> None:
    labels = np.zeros((1, peers.WINDOW, peers.WINDOW), np.uint8)
    labels[:, :, 150:] = 2
    generator = peers.Generator(str(cheap), 1, tmp_path / "count")
    image = generator(labels)
    assert image.shape == (1, 256, 256, 3)
    assert image.min() > 0
    assert image.max() < 255
    assert np.array_equal(image, load_model(cheap, device="cpu")(labels, None))
    labels[:, :, :20] = 1  # far from the pixel looked at, which only its patch's mean can tell it of
    assert abs(generator(labels)[0, 200, 200] - image[0, 200, 200]).min() > 0.1
    assert int.from_bytes((tmp_path / "count").read_bytes(), "little") == 2


def test_origins_and_windows_are_those_of_the_engine(peers: Any, labels: npt.NDArray[np.uint8]) -> None:
    import job

    grid = PatchGrid(labels.shape[0], labels.shape[1], 256, 20, 20)
    for length, count in zip(labels.shape, grid.shape, strict=True):
        assert job.origins(length) == [236 * index for index in range(count)]
    padded = np.pad(labels, 300, mode="edge")
    seen = 0
    for y, x, window in job.windows(labels):
        assert np.array_equal(window, padded[y + 280 : y + 576, x + 280 : x + 576])
        seen += 1
    assert seen == grid.shape[0] * grid.shape[1]


def test_the_reference_is_the_oracle(
    peers: Any, labels: npt.NDArray[np.uint8], cheap: Path, tmp_path: Path
) -> None:
    generator = peers.Generator(str(cheap), 1, tmp_path / "count")
    whole = render_whole(labels, load_model(cheap, device="cpu"), weights=np.ones(256, np.int32), bits=12)
    for y, x, height, width in ((0, 0, 300, 300), (200, 400, 300, 300), (500, 700, 100, 150)):
        mean = peers.mean_of_patches(labels, generator, y, x, height, width)
        assert np.abs(mean - whole[y : y + height, x : x + width]).max() < 0.501


def test_blocks_put_patches_side_by_side_and_paint_glass_on_demand(
    peers: Any, labels: npt.NDArray[np.uint8], cheap: Path, tmp_path: Path
) -> None:
    import job

    generator = peers.Generator(str(cheap), 1, tmp_path / "count")
    block = np.ascontiguousarray(labels[: 512 + 40, : 512 + 40])
    block[:300, :300] = 0
    image = job.render_block(block, generator, 3, None)
    for y, x in ((0, 0), (256, 0), (256, 256)):
        alone = job.to_uint8(generator(block[None, y : y + 296, x : x + 296]))[0]
        assert np.array_equal(image[y : y + 256, x : x + 256], alone)
    skipped = job.render_block(block, generator, 3, [1, 2, 3])
    assert (skipped[:256, :256] == [1, 2, 3]).all()
    assert np.array_equal(skipped[256:], image[256:])


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        ([], None),
        ([{"side": 4096, "seconds": 10, "over_bytes": 1e9}], None),
        ([{"side": 4096, "seconds": 70, "over_bytes": 1e9}], (280, 4e9)),
        ([{"side": 4096, "seconds": 1, "over_bytes": 4e9}], (4, 16e9)),
        (
            [
                {"side": 2048, "seconds": 1, "over_bytes": 3.5e9},
                {"side": 4096, "seconds": 4, "over_bytes": 4e9},
            ],
            None,
        ),
        ([{"side": 4096, "seconds": 70, "over_bytes": 1e9, "stopped": "time"}], (280, 4e9)),
    ],
)
def test_what_would_take_too_much_is_foretold_not_run(
    peers: Any, earlier: list[dict[str, Any]], said: tuple[float, float] | None
) -> None:
    found = peers.beyond(earlier, 8192, argparse.Namespace(timeout=240, cap=12))
    assert (None if found is None else (found["seconds"], found["over_bytes"])) == said


def test_every_peer_is_pinned_and_has_a_runner(peers: Any) -> None:
    for peer in peers.BEST.values():
        assert (BENCHMARKS / "peers" / f"run_{peer.runner}.py").is_file()
        if peer.environment is None:
            continue
        lines = [
            line
            for path in (BENCHMARKS / "peers").glob(f"{peer.environment}*.txt")
            for line in path.read_text().splitlines()
        ]
        assert any(line.startswith("onnxruntime==") for line in lines)
        assert all("==" in line for line in lines)
