"""benchmarks/gpu.py runs whole on a CPU, and says what it leaves out where something is not installed."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx_models import CARD, write_onnx

GEOMETRY = {"tile": 256, "context": 20, "mpp": 0.5}
"""Of the generators that ship."""


@pytest.fixture
def gpu(load_bench: Callable[[str], ModuleType]) -> ModuleType:
    return load_bench("gpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that the script chooses
def test_it_runs_whole_on_a_cpu(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shipped, folder = tmp_path / "shipped", tmp_path / "work"
    shipped.mkdir()
    folder.mkdir()
    # The network like the paper's begins with a convolution as wide as the context; one of 41 pixels takes most of the time.
    monkeypatch.setattr(gpu, "CONTEXT", 4)
    monkeypatch.setattr(gpu, "SIDE", 264)
    write_onnx(shipped / "quick.onnx", card=CARD | GEOMETRY | {"context": 4}, crop=4)
    monkeypatch.setattr(gpu, "_shipped_folder", lambda: str(shipped))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--folder", str(folder)])
    start, trainings = subprocess.run, []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        """Train in this process, which has loaded PyTorch; start others."""
        if Path(command[1]).name != "training.py":
            return start(command, **how)
        trainings.append(command)
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(printed):
            patched.setattr(sys, "argv", command[1:])
            runpy.run_path(command[1], run_name="__main__")
        return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")

    monkeypatch.setattr(subprocess, "run", run)
    gpu.main()
    assert [command[0] for command in trainings] == [sys.executable]
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["benchmark"] == "gpu"
    assert set(made["generators"]) == {"paper-like", "quick", "training"}
    row = made["generators"]["quick"]
    assert set(row["rates"]["cpu float32"]) == {"1", "2"}
    assert all(row["patches_per_s"] > 0 for row in row["rates"]["cpu float32"].values())
    assert row["parity"]["cpu float32"]["max"] < 1e-2
    slide = row["whole"]["float32"]["600"]
    assert slide["patches"] == 9
    assert slide["share"] > 0
    assert made["generators"]["training"]["safron-seamless"]["1"]["tiles_per_s"] > 0
    assert list(folder.iterdir()) == []


def test_what_is_not_installed_is_said(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = {"torch", "safron", "safron.engine", "zarr"}
    monkeypatch.setattr(gpu, "missing", lambda *names: [name for name in names if name in gone])
    file = write_onnx(tmp_path / "m.onnx", card=CARD | GEOMETRY, side=296, crop=20)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--models", str(file)])
    gpu.main()
    out = capsys.readouterr().out
    assert "left out, a network like the paper's: torch not installed" in out
    assert "left out, whole slides: safron not installed" in out
    assert "left out, training: torch, safron not installed" in out
    assert set(json.loads(out.splitlines()[-1])["generators"]) == {"m"}


def test_a_provider_that_falls_back_is_an_error(gpu: ModuleType, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("CUDA may load here")
    file = write_onnx(tmp_path / "m.onnx", card=CARD, side=296)
    made = gpu.rate(gpu.Way(file, "cuda"), 1, 0.0, tmp_path)
    assert "CUDAExecutionProvider" in made["error"]


def test_patches_of_a_canvas(gpu: ModuleType, tmp_path: Path) -> None:
    assert gpu.write_mask(tmp_path / "m.zarr", 600) == 9
    assert gpu.windows(2).shape == (2, 296, 296)
    assert set(np.unique(gpu.windows(3))) == {0, 1, 2}


def test_the_most_important_rows_come_first_and_are_not_measured_again(
    gpu: ModuleType, tmp_path: Path
) -> None:
    made: list[str] = []

    def step(name: str, rank: int) -> object:
        def call(rows: object) -> dict[str, float]:
            made.append(name)
            if name == "dies":
                raise KeyboardInterrupt
            return {"patches_per_s": 1.0}

        return gpu.Step(("net", "rates", name, "32"), rank, call)

    lines = tmp_path / "rows.jsonl"
    todo = [step("late", 4), step("first", 0), step("dies", 2), step("second", 1)]
    with pytest.raises(KeyboardInterrupt):
        gpu.measure(todo, lines, 60)
    assert made == ["first", "second", "dies"]
    lines.write_text(lines.read_text() + '[["net", "rates", "cut')
    rows, left = gpu.measure(todo[:2] + todo[3:], lines, 60)
    assert made[3:] == ["late"]
    assert (len(rows), left) == (3, [])
    assert gpu.nested(rows)["net"]["rates"]["first"] == {"32": {"patches_per_s": 1.0}}
    rows, left = gpu.measure(todo, lines, -1.0)
    assert [one.key[2] for one in left] == ["dies"]


def test_a_row_that_was_cut_does_not_spoil_the_next(gpu: ModuleType, tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('[["net", "rates", "cut')
    step = gpu.Step(("net", "parity"), 0, lambda rows: 1)
    gpu.measure([step], lines, 60)
    assert gpu.measure([step], lines, -1.0) == ({("net", "parity"): 1}, [])
