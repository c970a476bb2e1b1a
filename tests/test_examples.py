"""Do the example job scripts end when a part of them does not start?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "examples" / "slurm"


def stand_in(folder: Path, name: str, body: str) -> None:
    """A program of that name, for the PATH of a script."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("dask", "sleep", "code", "lines"),
    [
        ("exit 1", "exec /bin/sleep 0.01", 1, []),
        ("exec /bin/sleep 30", "exit 0", 1, []),
        ('echo "{}" > "$3"; exec /bin/sleep 30', "exec /bin/sleep 0.01", 5, ["mask.zarr slide.svs"]),
    ],
    ids=["scheduler fails", "scheduler hangs", "scheduler starts"],
)
def test_scheduler_script(here: Path, dask: str, sleep: str, code: int, lines: list[str]) -> None:
    """The render runs once the scheduler is there, and its exit code is the script's; else the script ends with a message."""
    stand_in(here / "bin", "dask", dask)
    stand_in(here / "bin", "sleep", sleep)
    stand_in(here / "bin", "srun", "exit 0")
    stand_in(here / "bin", "safron-render", 'echo "$1 $2"; exit 5')
    done = subprocess.run(
        ["bash", SCRIPTS / "scheduler.sbatch", "mask.zarr", "slide.svs"],
        env=os.environ | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.splitlines()) == (code, lines)
    assert ("the Dask scheduler did not start" in done.stderr) == (not lines)
    assert not list(here.glob("scheduler.*.json"))


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_valid_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
