"""How far a program is: lines where there is no terminal, and none too often. How it ends by a signal."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import click
import pytest
from safron.io import console, progress


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_lines_count_from_where_an_earlier_run_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(10, "patches", also=(0.5, "Mpx")) as advance:
        advance(4)
        advance(1)
        advance(2, "all well")
    first, second = told(capsys)
    assert re.fullmatch(r"5/10 patches, [\d.]+ patches/s, [\d.]+ Mpx/s, \d+ s left", first)
    assert re.fullmatch(r"7/10 patches, [\d.]+ patches/s, [\d.]+ Mpx/s, \d+ s left: all well", second)


def test_no_line_before_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(3, "steps") as advance:
        for _ in range(3):
            advance(1)
    assert told(capsys) == []


def test_the_end_is_told_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(3, "steps", ending=True) as advance:
        for step in range(3):
            advance(1, f"loss {step}")
    (line,) = told(capsys)
    assert re.fullmatch(r"3/3 steps, [\d.]+ steps/s, 0 s left: loss 2", line)


@pytest.mark.usefixtures("at_once")
def test_a_total_may_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(None, "steps") as advance:
        advance(0)
        advance(2)
    (line,) = told(capsys)
    assert re.fullmatch(r"2 steps, [\d.]+ steps/s", line)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_any_program_in_one_line_and_lets_it_tidy_up(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tidied = []

    @click.command(cls=console.Program)
    def work() -> None:
        try:
            signal.raise_signal(signal.Signals[name])
        finally:
            tidied.append(name)

    with pytest.raises(SystemExit) as ended:
        console.run_program(work, "safron-x", [])
    assert (ended.value.code, tidied) == (130, [name])
    assert told(capsys) == ["safron-x: interrupted; nothing was written"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_what_is_kept_is_said_once_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "checkpoint.pt"

    @click.command(cls=console.Program)
    @click.option("--kept", is_flag=True)
    def work(*, kept: bool) -> None:
        console.say_if_interrupted("all is kept", where=tmp_path / "checkpoint.pt", before="none yet")
        if kept:
            (tmp_path / "checkpoint.pt").touch()
        signal.raise_signal(signal.SIGINT)

    @click.command(cls=console.Program)
    def look() -> None:
        signal.raise_signal(signal.SIGINT)

    said = []
    for command, args in ((work, []), (work, ["--kept"]), (look, [])):
        with pytest.raises(SystemExit):
            console.run_program(command, "safron-x", args)
        said += told(capsys)
    assert kept.exists()
    assert said == [
        f"safron-x: interrupted; {end}" for end in ("none yet", "all is kept", "nothing was written")
    ]
