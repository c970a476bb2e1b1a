"""What a command should do: tables of these are the tests of the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import zarr
from safron.engine.cli import main


@dataclass(frozen=True)
class Expect:
    """A command that works.

    Attributes
    ----------
    args : arguments of safron-render, separated by blanks.
    says : texts that stand in what it prints.
    """

    args: str
    says: tuple[str, ...] = ()


PROGRESS = re.compile(r"\d+/\d+ \w+, ")


@dataclass(frozen=True)
class ExpectFail:
    """A command that is refused or breaks off, in one line and without harm.

    Attributes
    ----------
    what : what is wrong; the test's name.
    args : arguments of safron-render, separated by blanks.
    says : texts that stand in the message.
    code : exit code.
    """

    what: str
    args: str
    says: tuple[str, ...]
    code: int = 2


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr, but for those of progress, which come where a machine is slow."""
        (line,) = (line for line in self.err.splitlines() if not PROGRESS.match(line))
        return line


def run_program(
    capfd: pytest.CaptureFixture[str], main: Callable[[list[str]], NoReturn], *args: str | Path
) -> Outcome:
    """Run a program in this process; what C libraries print counts, too."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    printed = capfd.readouterr()
    return Outcome(int(stopped.value.code or 0), printed.out, printed.err)


def exit_code(main: Callable[[list[str]], NoReturn], *args: object) -> int:
    """Run a program in this process; what it prints is left to the test."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def run_cli(capfd: pytest.CaptureFixture[str], args: str, *more: str | Path) -> Outcome:
    """Run safron-render in this process."""
    return run_program(capfd, main, *args.split(), *more)


def check_fail(outcome: Outcome, case: ExpectFail) -> None:
    """Hold an outcome to what was expected: the code, one line, and its words."""
    assert (outcome.code, outcome.out) == (case.code, ""), outcome
    assert outcome.error.startswith("safron-render: error: "), outcome
    for text in case.says:
        assert text in outcome.error


def render_cli(capfd: pytest.CaptureFixture[str], args: str, *more: str | Path) -> dict[str, Any]:
    """Run a command that works, and give its report."""
    path = Path("report.of.render_cli.json")
    outcome = run_cli(capfd, args, *more, "--report", path)
    assert outcome.code == 0, outcome
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return report


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_mask(path: str | Path, height: int, width: int, *, seed: int = 0, chunk: int = 128) -> None:
    """Write a Zarr mask of random labels 0, 1 and 2, of 1 um per pixel as the shipped generator."""
    labels = np.random.default_rng(seed).integers(0, 3, (height, width), np.uint8)
    array = zarr.create_array(path, shape=labels.shape, chunks=(chunk, chunk), dtype="uint8")
    array[:] = labels
    array.attrs["mpp"] = 1.0
