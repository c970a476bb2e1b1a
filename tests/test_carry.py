"""benchmarks/carry.py: what is packed in parts arrives whole and is installed without a network, or one line says what is not."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def carry(load_bench: Callable[[str], ModuleType]) -> ModuleType:
    return load_bench("carry")


def write_wheel(folder: Path, name: str) -> None:
    """Write a wheel of one module that says its name."""
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"print({name!r})\n" + "#" * 1000)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{about}/RECORD", "")


def test_parts_arrive_whole(carry: ModuleType, tmp_path: Path) -> None:
    wheels, parts, site = tmp_path / "wheels", tmp_path / "parts", tmp_path / "site"
    wheels.mkdir()
    for name in ("carriedone", "carriedtwo"):
        write_wheel(wheels, name)
    assert carry.split(wheels, parts, 1000) > 2
    assert max(file.stat().st_size for file in parts.glob("*/content")) == 1000
    command = [
        sys.executable,
        str(parts / "part-00" / "carry.py"),
        "install",
        str(parts),
        "--site",
        str(site),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"export PYTHONPATH={site} PATH={site}/bin:$PATH LD_LIBRARY_PATH=")
    assert done.stdout.count("\n") == 1, "for a shell"
    script = [sys.executable, "-c", "import carriedone, carriedtwo"]
    assert (
        subprocess.check_output(script, env={"PYTHONPATH": str(site)}, text=True)
        == "carriedone\ncarriedtwo\n"
    )
    damaged = parts / "part-01" / "content"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"-1.0-py3-none-any.whl: not whole; bring all parts to {parts} again\n")
    assert done.stderr.count("\n") == 1


def test_it_packs_what_setup_wants(carry: ModuleType) -> None:
    wanted = carry.requirements((ROOT / "setup.cfg").read_text())
    names = [line.partition(">")[0] for line in wanted]
    assert {"onnxruntime-gpu", "zarr", "imagecodecs", "pyvips[binary]"} <= set(names)
    assert "onnxruntime" not in names
    assert not [line for line in wanted if "#" in line or ";" in line]
