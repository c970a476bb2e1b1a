"""Signals end a render in seconds whatever it is doing; so does a generator call that takes too long; streams may be closed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import safron
from cases import render_cli
from safron.engine.scratch.journal import read_journal
from slow_renders import Nursery, SlowRender
from small_renders import ARGS, PATCHES, undisturbed_digest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

JOURNAL = Path("out.tiff.safron/journal.jsonl")
KEPT = "safron-render: interrupted; finished blocks are kept, the same command continues\n"
NOTHING = "safron-render: interrupted; nothing was written\n"
PROCESSES = "--executor processes --workers 2"


def stuck_render(nursery: Nursery, more: str = "", *, after: int = 24, forked: bool = False) -> SlowRender:
    """A render one of whose generator calls takes a minute."""
    return SlowRender(nursery, f"{ARGS} {more}", seconds=0.001, stuck_after=after, forked=forked)


def end(render: SlowRender, *signals: signal.Signals, apart: float = 0.03) -> tuple[int, str, str]:
    """Send signals; give code, stdout and stderr of a process that ends within 5 s of the first on an idle machine."""
    for number in signals:
        render.send(number)
        time.sleep(apart)
    return render.ended(within=20)


def stuck() -> bool:
    return Path("stuck").exists()


def handles(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, or has ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")), 0)
    return bool(caught >> (number - 1) & 1) or process.poll() is not None


@pytest.mark.parametrize(
    ("by", "more"),
    [
        (signal.SIGINT, ""),
        (signal.SIGTERM, ""),
        (signal.SIGHUP, ""),
        (signal.SIGTERM, "--workers 3"),
        (signal.SIGHUP, PROCESSES),
    ],
    ids=str,
)
def test_a_signal_ends_a_render_whose_generator_does_not_return(
    by: signal.Signals, more: str, masked: Path, nursery: Nursery, capfd: pytest.CaptureFixture[str]
) -> None:
    digest = undisturbed_digest(capfd)
    with stuck_render(nursery, more, forked=more == PROCESSES) as render:
        render.wait_for(lambda: stuck() and JOURNAL.exists() and len([*read_journal(JOURNAL)]) > 2)
        assert end(render, by) == (130, "", KEPT)
    assert len([*read_journal(JOURNAL)]) > 2
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


def test_worker_processes_do_not_outlive_a_render(masked: Path, nursery: Nursery) -> None:
    with stuck_render(nursery, PROCESSES) as render:
        render.wait_for(stuck)
        workers = render.spawned()
        assert len(workers) == 2
        render.send(signal.SIGTERM)
        assert render.wait(20) == 130
        _, alive = psutil.wait_procs(workers, timeout=0.5)
        assert not alive


@pytest.mark.parametrize("apart", [0.03, 1.2], ids=["at once", "later"])
def test_two_signals_are_one_line(apart: float, masked: Path, nursery: Nursery) -> None:
    with stuck_render(nursery) as render:
        render.wait_for(stuck)
        assert end(render, signal.SIGINT, signal.SIGINT, apart=apart) == (130, "", KEPT)


def test_the_warm_up_is_interrupted(masked: Path, nursery: Nursery) -> None:
    with stuck_render(nursery, after=0) as render:
        render.wait_for(stuck)
        code, out, err = end(render, signal.SIGINT)
        assert (code, out) == (130, "")
        assert err in (KEPT, NOTHING)
    assert sorted(path.name for path in masked.iterdir()) == ["mask.zarr", "stuck"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda by: by.name)
def test_a_signal_while_python_starts_is_no_traceback(by: signal.Signals, masked: Path) -> None:
    chance = random.Random(by)
    command = [Path(sys.executable).with_name("safron-render"), *ARGS.split()]
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not handles(process, signal.SIGTERM):  # before that Python itself starts, and we have no say
            time.sleep(0.001)
        time.sleep(0.3 * chance.random() ** 2)
        process.send_signal(by)
        _, err = process.communicate(timeout=10)
        assert (process.returncode, err) in {(130, KEPT), (130, NOTHING)}


def test_a_signal_that_is_ignored_stays_so(masked: Path) -> None:
    """As below nohup, where a closed terminal ends nothing."""
    command = f"trap '' HUP; exec {sys.executable} {Path(__file__).with_name('slow_render.py')} {ARGS}"
    environment = os.environ | {"SLOW_COUNT": "made", "SLOW_SECONDS": "0.02"}
    with subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        while not Path("made").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    assert Path("out.tiff").exists()


# A generator call that takes too long


@pytest.mark.parametrize("more", ["", "--workers 3", PROCESSES], ids=["one thread", "threads", "processes"])
def test_a_call_longer_than_the_limit_ends_the_render(
    more: str, masked: Path, nursery: Nursery, capfd: pytest.CaptureFixture[str]
) -> None:
    digest = undisturbed_digest(capfd)
    with stuck_render(nursery, f"{more} --patch-timeout 1.5", forked=more == PROCESSES) as render:
        render.wait_for(stuck)
        code, out, err = render.ended(within=9)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    for text in (
        "--patch-timeout 1.5: a call of the generator has taken ",
        " s, in block (",
        ", y=",
        " px",
    ):
        assert text in line
    assert JOURNAL.exists()
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


def test_a_first_call_longer_than_the_limit_is_refused(masked: Path, nursery: Nursery) -> None:
    with stuck_render(nursery, "--patch-timeout 1", after=0) as render:
        code, out, err = render.ended(within=20)
    assert (code, out) == (1, "")
    assert "--patch-timeout 1: the first call of the generator has taken 1." in err
    assert len(err.splitlines()) == 1


def test_calls_within_the_limit_change_nothing(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    digest = undisturbed_digest(capfd)
    assert render_cli(capfd, ARGS + "--patch-timeout 60")["digest"] == digest


def test_a_worker_without_progress_is_told_of_once(
    masked: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from safron.engine.execution import dask_cluster

    class Client:
        def processing(self) -> dict[str, tuple[str, ...]]:
            return {"tcp://a": ("block-0-0-1",), "tcp://b": ()}

    now = [0.0]
    monkeypatch.setattr(dask_cluster.time, "monotonic", lambda: now[0])
    cluster = dask_cluster.Cluster(Client(), "--scheduler x")

    def pass_by(seconds: int) -> list[str]:
        caplog.clear()
        for _ in range(0, seconds, 10):
            now[0] += 10
            cluster.check()
        return caplog.messages

    assert pass_by(60) == []
    cluster._hear("unknown", {"task": "block-0-0-1", "patches": 1, "worker": "tcp://a"})
    assert pass_by(20) == [
        "--scheduler x: waiting for worker tcp://a since 60 s; it has 1 tasks and shows no progress"
    ]
    assert pass_by(200) == []


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROGRAMS = ("augment", "eval", "generator", "mask", "optimize", "render", "tiles", "train", "view")


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_starts(name: str) -> None:
    program = Path(sys.executable).with_name(f"safron-{name}")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"safron {safron.__version__}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("name", "by"), [*zip(PROGRAMS, 3 * ENDING, strict=True)])
def test_a_signal_while_any_program_starts_is_one_line(name: str, by: signal.Signals, masked: Path) -> None:
    """All programs begin in the same way, and each signal comes to three of them."""
    program = Path(sys.executable).with_name(f"safron-{name}")
    process = subprocess.Popen([program, "none"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not handles(process, signal.SIGTERM):
        time.sleep(0.001)
    process.send_signal(by)
    _, err = process.communicate(timeout=20)
    # On a busy machine it may have come further, and have refused what it was given.
    assert (process.returncode, err.count("\n")) in {(130, 1), (2, 1)}
    assert err.startswith(f"safron-{name}: ")


# Standard streams


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true"])
@pytest.mark.parametrize("code", [0, 2])
def test_closed_streams_do_not_change_the_exit_code(code: int, closed: str, masked: Path) -> None:
    program = Path(sys.executable).with_name("safron-render")
    args = ARGS if code == 0 else ARGS.replace("mask.zarr", "none.zarr")
    script = f"{{ {program} {args}; echo $? > code; }} {closed}"
    subprocess.run(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    assert int(Path("code").read_text()) == code
    assert Path("out.tiff").exists() == (code == 0)


@pytest.mark.parametrize(("more", "files"), [("--workers 8", 16), ("--executor processes --workers 2", 24)])
def test_too_few_open_files_are_one_line(more: str, files: int, masked: Path) -> None:
    script = f"ulimit -n {files}; exec {Path(sys.executable).with_name('safron-render')} {ARGS} {more}"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert f" open files, and this session allows {files}; raise it with ulimit -n " in line
    assert not Path("out.tiff.safron").exists()


FREED = """
import signal, time
from safron.io.interruptions import begin_program, end_program, own_process, say_last, words_of_interruption

own_process("safron-render")
begin_program("safron-render")


class Freed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


class Wrong:
    def __del__(self):
        raise RuntimeError("told of as ever")


try:
    freed = Freed()
    del freed
    wrong = Wrong()
    del wrong
    time.sleep(20)  # from which it is woken, else it ends with 0
except KeyboardInterrupt as error:
    say_last(words_of_interruption(error))
    end_program(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no alarm raises a signal again")
def test_a_signal_while_an_object_is_freed_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, timeout=60)
    said = done.stderr.splitlines()
    assert (done.returncode, said[-1]) == (130, "safron-render: interrupted; nothing was written"), (
        done.stderr
    )
    assert "KeyboardInterrupt" not in done.stderr
    assert said[-2] == "RuntimeError: told of as ever", "other errors are still told of"
