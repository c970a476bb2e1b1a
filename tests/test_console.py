"""How far a program is: lines where there is no terminal, and none too often. How it ends by a signal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from safron.io import console, progress
from safron.io.interruptions import say_if_interrupted


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
        say_if_interrupted("all is kept", where=tmp_path / "checkpoint.pt", before="none yet")
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


PROGRAM = """
import atexit, ctypes, os, signal, sys, threading, time
import click
from safron.io.console import Program, run_program
from safron.io.interruptions import own_process

@click.command(cls=Program)
def work():
    {body}

own_process("safron-x")
run_program(work, "safron-x", [])
"""


def run_own(body: str) -> tuple[int, list[str]]:
    """Run a program in its own process; give its exit code and what it says."""
    code = PROGRAM.format(body=body.replace("\n", "\n    "))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interruption_that_a_callback_of_a_library_swallows_is_raised_again() -> None:
    code, said = run_own(
        "call = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGTERM))\n"
        "call()\nos.write(2, b'goes on\\n')\ntime.sleep(50)"
    )
    assert code == 130
    assert [line for line in said if "safron" in line or "goes" in line][-2:] == [
        "goes on",
        "safron-x: interrupted; nothing was written",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_tidying_up_is_not_interrupted_by_what_asked_for_it() -> None:
    code, said = run_own(
        "try:\n    signal.raise_signal(signal.SIGINT)\nfinally:\n    time.sleep(1.5)\n    os.write(2, b'tidy\\n')"
    )
    assert (code, said) == (130, ["tidy", "safron-x: interrupted; nothing was written"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_program_that_is_done_is_not_interrupted() -> None:
    assert run_own("atexit.register(signal.raise_signal, signal.SIGINT)") == (0, [])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interrupted_program_waits_for_no_thread() -> None:
    code, said = run_own(
        "threading.Thread(target=time.sleep, args=(50,)).start()\nsignal.raise_signal(signal.SIGHUP)"
    )
    assert (code, said) == (130, ["safron-x: interrupted; nothing was written"])
