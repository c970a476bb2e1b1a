"""Worker processes, a Dask scheduler, a batch system: the same slide, and failures that cost little."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import zarr
from cases import ExpectFail, check_fail, render_cli, run_cli, write_mask
from generators import NamedGpu, Poison
from models import RampModel
from safron.engine import render
from safron.engine.execution import cluster_start as cluster
from safron.engine.execution import dask_worker as worker
from safron.engine.execution.batch_system import JobSettings, job_arguments
from safron.engine.execution.cluster_start import open_cluster, start_processes
from safron.engine.execution.dask_pool import DASK_SETTINGS
from safron.engine.execution.dask_worker import JobPayload, ModelSource
from safron.engine.generator.model import IdentityModel
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.placement import placement_of
from safron.engine.system.gpus import GPU_BLOCKS, visible_gpus, worker_gpus
from safron.engine.system.signals import interrupts_later
from safron.io.errors import BadInput, Failed
from safron.io.fields import convert
from slow_renders import Nursery, SlowRender

HEIGHT, WIDTH, PATCHES, BLOCKS = 500, 700, 176, 24
ARGS = (
    "mask.zarr out.tiff --model identity --tile 64 --block 128 --tiff-tile 64 --level-count 3 --mpp 0.5 "
    "--device cpu --threads 1 "
)
PROCESSES = ARGS + "--executor processes --workers 2 "
TESTS = Path(__file__).parent
_digests: list[str] = []  # made once


@pytest.fixture
def here(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a mask, to work in; worker processes find the tests' modules."""
    write_mask("mask.zarr", HEIGHT, WIDTH)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return here


@pytest.fixture
def digest(here: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The digest of the slide that one process makes, task after task."""
    if not _digests:
        _digests.append(render_cli(capfd, ARGS.replace("out.tiff", "serial.tiff") + "--workers 1")["digest"])
        Path("serial.tiff").unlink()
    return _digests[0]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=40)
    return not alive


# Processes of this machine


def test_worker_processes_make_the_same_slide(here: Path, digest: str) -> None:
    counted: list[int] = []
    report = render(
        "mask.zarr", "out.tiff", model="identity", tile=64, block=128, tiff_tile=64, level_count=3, mpp=0.5,
        executor="processes", workers=2, progress=counted.append,
    )  # fmt: skip
    assert report.digest == digest
    assert (report.run + report.painted, report.blocks) == (PATCHES, BLOCKS)
    assert sum(counted) == PATCHES, "finished patches are reported while workers run"
    assert sorted(path.name for path in here.iterdir()) == ["mask.zarr", "out.tiff"]


@pytest.mark.parametrize("how", ["INT to all", "TERM", "KILL"])
def test_no_worker_outlives_its_driver(
    how: str, here: Path, nursery: Nursery, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    forked = how == "TERM"  # which comes to the driver alone; no other signal may leave a worker of users
    with SlowRender(nursery, PROCESSES, forked=forked) as slow:
        slow.wait_for(lambda: slow.made >= 60)
        workers = slow.children() if forked else slow.spawned()
        assert len(workers) == 2 + forked, "and the server that forked them"
        slow.send(signal.Signals[f"SIG{how.split()[0]}"], to_all=how.endswith("to all"))
        code, out, err = slow.ended()
        assert gone(workers)
    if how != "KILL":
        assert (code, out) == (130, "")
        said = [line for line in err.splitlines() if not re.match(r"\d+/\d+ patches, ", line)]
        assert said == ["safron-render: interrupted; finished blocks are kept, the same command continues"]
    report = render_cli(capfd, ARGS + "--workers 1")
    assert report["resumed"] > 0
    assert report["digest"] == digest


@pytest.mark.parametrize("how", ["INT to all", "INT", "TERM to all"])
def test_an_interrupt_while_workers_start_is_one_line(how: str, here: Path, nursery: Nursery) -> None:
    with SlowRender(nursery, PROCESSES) as slow:
        slow.wait_for(lambda: bool(slow.spawned()))
        workers = slow.spawned()
        slow.send(signal.Signals[f"SIG{how.split()[0]}"], to_all=how.endswith("to all"))
        ended = slow.ended()
        assert gone(workers)
    assert ended == (130, "", "safron-render: interrupted; nothing was written\n")
    assert [path.name for path in here.iterdir() if path.name.startswith("out")] == []


def test_the_first_interrupt_waits_and_a_later_one_does_not() -> None:
    steps = []

    def work(*times: float, then: Exception | None = None) -> None:
        now = [0.0]
        with interrupts_later(clock=lambda: now[0]):
            for now[0] in times:
                signal.raise_signal(signal.SIGINT)
            steps.append(times)
            if then is not None:
                raise then

    work()
    for times, then in (
        ((0,), None),
        ((0,), ValueError("came of the signal, too")),
        ((0, 0.05), None),
        ((0, 2), None),
    ):
        with pytest.raises(KeyboardInterrupt):
            work(*times, then=then)
    assert steps == [(), (0,), (0,), (0, 0.05)], "pressed twice is once"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("forked")
def test_a_block_that_kills_its_workers_is_named_and_the_others_finish(here: Path) -> None:
    labels = np.ones((HEIGHT, WIDTH), np.uint8)
    labels[188, 316] = 2  # the first of the window of 72 px around the patch at (192, 320)
    zarr.open_array("mask.zarr", mode="r+")[:] = labels
    options: dict[str, Any] = {
        "tile": 64, "overlap": 0, "block": 128, "tiff_tile": 64, "scale": "1", "executor": "processes", "workers": 2,
    }  # fmt: skip
    with pytest.raises(
        Failed, match=r"^1 block failed .*\(1, 2\) at x=256, y=128, 128 x 128 px: its worker died"
    ) as failed:
        render("mask.zarr", "out.tiff", model=Poison(here / "deaths"), **options)
    assert "\n" not in str(failed.value)
    assert 3 <= len((here / "deaths").read_text().splitlines()) <= 6
    model = RampModel(noise=False)
    made = render("mask.zarr", "out.tiff", model=model, **(options | {"executor": "threads", "workers": 1}))
    assert made.resumed == BLOCKS - 1
    assert model.calls == 2 + 4, "the warm-up, and the patches of the one block"


def test_a_process_may_take_long_to_start_again() -> None:
    """Dask would give it up after 15 s, and tasks would wait for ever for a worker."""
    with open_cluster(placement_of(RenderOptions(executor="processes", workers=1))):
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1h"


@pytest.mark.usefixtures("forked")
def test_processes_that_all_ended_end_the_render(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DASK_SETTINGS, "distributed.deploy.lost-worker-timeout", "1ms")
    options: dict[str, Any] = {"tile": 64, "overlap": 0, "block": 128, "tiff_tile": 64, "scale": "1"}
    labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
    zarr.open_array("mask.zarr", mode="r+")[:] = labels
    with pytest.raises(
        Failed, match=r"the workers of this machine: all of them have ended .* the same command continues"
    ):
        render(
            "mask.zarr", "out.tiff", model=Poison(here / "deaths"), executor="processes", workers=1, **options
        )


def test_an_array_in_memory_is_refused(here: Path) -> None:
    with pytest.raises(BadInput, match="other processes cannot read it; save it as Zarr"):
        render(np.zeros((64, 64), np.uint8), "out.tiff", model="identity", executor="processes")


@pytest.mark.usefixtures("forked")
def test_blocks_of_a_process_with_a_gpu_share_its_batches(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"block": 128, "tiff_tile": 64, "overlap": 12, "batch": 8}
    alone = RampModel(noise=False)
    serial = render("mask.zarr", "serial.tiff", model=alone, workers=1, **(options | {"batch": 1}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with open_cluster(placement_of(RenderOptions(executor="processes", workers=2))) as opened:
        assert opened.width == 2 * GPU_BLOCKS
    model = NamedGpu(here / "threads")
    report = render("mask.zarr", "out.tiff", model=model, executor="processes", workers=2, **options)
    assert report.digest == serial.digest
    assert report.run + report.painted == report.patches
    assert "-safron-device-" in (here / "threads").read_text(), "batches of several blocks"


def test_each_process_sees_one_gpu_from_its_start() -> None:
    def told() -> tuple[str | None, str | None]:
        import os

        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")

    from distributed import Client

    with start_processes(3, gpus=["2", "GPU-5a"]) as workers, Client(workers, set_as_default=False) as client:
        seen = sorted(value[0] for value in client.run(told).values())
    assert seen == ["2", "2", "GPU-5a"]


@pytest.mark.parametrize(
    ("allowed", "names"),
    [("0,1", ["0", "1"]), ("GPU-1, GPU-2", ["GPU-1", "GPU-2"]), ("", []), ("3,-1,4", ["3"])],
)
def test_gpus_that_may_be_used(allowed: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert visible_gpus() == names
    assert worker_gpus("auto") == names
    assert worker_gpus("cpu") == []


def test_a_named_gpu_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert worker_gpus("cuda:1") == ["5"]
    with pytest.raises(BadInput, match="cuda:2: this machine shows 2 GPUs"):
        worker_gpus("cuda:2")


@pytest.mark.usefixtures("forked")
def test_the_dashboard_is_shown_where_asked_and_nowhere_else(here: Path) -> None:
    port = free_port()
    options = RenderOptions(executor="processes", workers=1, dashboard=f"127.0.0.1:{port}")
    with open_cluster(placement_of(options)) as opened:
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=10).status == 200
        addresses = [opened.client.scheduler.address, *opened.client.scheduler_info()["workers"]]
    assert all(address.startswith("tcp://127.0.0.1:") for address in addresses), "loopback alone"


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# A running scheduler


class Running:
    """A Dask scheduler and a worker, started as a user starts them."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.file = folder / "scheduler.json"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        program = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"]
        program += ["--no-dashboard", "--scheduler-file", str(self.file), *more]
        self.scheduler = subprocess.Popen(program, **quiet)  # type: ignore[call-overload]
        worker = [
            sys.executable,
            "-m",
            "dask",
            "worker",
            "--scheduler-file",
            str(self.file),
            "--nthreads",
            "2",
        ]
        worker += ["--no-dashboard", "--no-nanny", "--death-timeout", "60", *more]
        while not self.file.exists():
            time.sleep(0.05)
        self.worker = subprocess.Popen(worker, **quiet)  # type: ignore[call-overload]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.worker, self.scheduler):
            process.kill()
            process.wait()


def test_a_scheduler_that_dies_during_a_render_is_one_line_and_resumed(
    here: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves two renders before, which find it by its file and by its address."""
    seen = 0
    with Running(here) as running:
        address = json.loads(running.file.read_text())["address"]
        assert render_cli(capfd, ARGS + "--scheduler", running.file)["digest"] == digest
        assert render_cli(capfd, ARGS + "--overwrite --scheduler", address)["digest"] == digest
        Path("out.tiff").unlink()

        def kill(count: int) -> None:
            nonlocal seen
            seen += count
            if seen > PATCHES // 2:
                running.scheduler.kill()

        monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
        with pytest.raises(Failed, match="the connection was lost; finished blocks are kept"):
            render(
                "mask.zarr", "out.tiff", model="identity", tile=64, block=128, tiff_tile=64, level_count=3, mpp=0.5,
                scheduler=str(running.file), progress=kill,
            )  # fmt: skip
    report = render_cli(capfd, ARGS + "--workers 1")
    assert report["resumed"] > 0
    assert report["digest"] == digest


@pytest.fixture
def security(here: Path) -> Path:
    """A file for --security, with a certificate that signs itself."""
    write_certificate(here)
    (here / "tls.yaml").write_text("ca: tls.crt\ncert: tls.crt\nkey: tls.key\n")
    return here / "tls.yaml"


def write_certificate(folder: Path) -> None:
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "safron")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1)).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.mark.usefixtures("forked")
def test_with_certificates_all_is_tls(
    here: Path,
    digest: str,
    security: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    assert render_cli(capfd, PROCESSES + "--security", security)["digest"] == digest
    with open_cluster(
        placement_of(RenderOptions(executor="processes", workers=1, security=security))
    ) as opened:
        address = opened.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        outcome = run_cli(capfd, ARGS + f"--overwrite --scheduler {address}")
        check_fail(outcome, ExpectFail("", "", (f"--scheduler {address}: no Dask scheduler answers there",)))


# A batch system


FAKE_SBATCH = """#!/bin/sh
# Runs the job at once, as a batch system with free nodes does.
cp "$1" "$FAKE_JOBS/job.$$"
chmod +x "$FAKE_JOBS/job.$$"
setsid "$FAKE_JOBS/job.$$" > "$FAKE_JOBS/$$.log" 2>&1 &
echo $! > "$FAKE_JOBS/$$.pid"
echo "Submitted batch job $$"
"""
FAKE_SCANCEL = """#!/bin/sh
echo "$1" >> "$FAKE_JOBS/cancelled"
kill -TERM -- -$(cat "$FAKE_JOBS/$1.pid")
"""
SLURM = """kind: slurm
workers: 2
cores: 1
memory: 1GB
gpus: 1
walltime: "00:30:00"
queue: gpu
interface: lo
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for SLURM is a shell script")
def test_jobs_of_a_batch_system(
    here: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    (here / "bin").mkdir()
    (here / "jobs").mkdir()
    for name, text in (("sbatch", FAKE_SBATCH), ("scancel", FAKE_SCANCEL)):
        (here / "bin" / name).write_text(text)
        (here / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_JOBS", str(here / "jobs"))
    (here / "slurm.yaml").write_text(SLURM)
    assert render_cli(capfd, ARGS + "--cluster slurm.yaml")["digest"] == digest
    jobs = list((here / "jobs").glob("job.*"))
    assert len(jobs) == 2
    text = jobs[0].read_text()
    wanted = (
        "#SBATCH --gres=gpu:1",
        "#SBATCH -p gpu",
        "#SBATCH -t 00:30:00",
        "--lifetime 1740s",
        "--nthreads 4",
    )
    for line in wanted:
        assert line in text
    cancelled = (here / "jobs" / "cancelled").read_text().split()
    assert sorted(cancelled) == sorted(path.suffix[1:] for path in jobs), "no job outlives the render"
    pids = [int(path.read_text()) for path in (here / "jobs").glob("*.pid")]
    assert gone([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for SLURM is a shell script")
def test_a_batch_system_that_refuses(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    (here / "bin").mkdir()
    says = "sbatch: error: invalid partition specified: gpu"
    (here / "bin" / "sbatch").write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    (here / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    (here / "slurm.yaml").write_text(SLURM)
    case = ExpectFail("", "", ("--cluster slurm.yaml: slurm takes no jobs", "invalid partition"), code=1)
    check_fail(run_cli(capfd, ARGS + "--cluster slurm.yaml"), case)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("slurm", {"account": "lab", "job_extra_directives": ["--gres=gpu:2", "-x node7"]}),
        ("lsf", {"project": "lab", "job_extra_directives": ['-gpu "num=2"', "-x node7"]}),
        ("sge", {"project": "lab", "job_extra_directives": ["-l gpu=2", "-x node7"]}),
        ("pbs", {"account": "lab", "resource_spec": "select=1:ncpus=4:ngpus=2:mem=8GB"}),
    ],
)
def test_gpus_and_accounts_in_the_words_of_each_batch_system(kind: str, expected: dict[str, Any]) -> None:
    settings = {
        "kind": kind.upper(), "workers": 3, "cores": 4, "memory": "8GB", "gpus": 2, "account": "lab",
        "options": {"job_extra_directives": ["-x node7"], "job_script_prologue": ["module load cuda"]},
    }  # fmt: skip
    found, arguments = job_arguments(convert(settings, JobSettings, "file.yaml"))
    assert found == kind
    assert expected.items() <= arguments.items()
    assert arguments["job_script_prologue"] == ["module load cuda"]


def test_a_file_adds_to_the_lists_and_scheduler_options_that_are_ours() -> None:
    options = {
        "worker_extra_args": ["--resources", "GPU=1"],
        "job_extra": ["--exclusive"],
        "scheduler_options": {"port": 8790},
        "log_directory": "logs",
    }
    settings = {
        "kind": "slurm",
        "workers": 1,
        "cores": 2,
        "memory": "8GB",
        "walltime": "02:00:00",
        "options": options,
    }
    _, arguments = job_arguments(convert(settings, JobSettings, "file.yaml"))
    wanted = "--nthreads 1 --memory-limit 0 --lifetime 7140s --lifetime-stagger 30s --resources GPU=1"
    assert " ".join(arguments["worker_extra_args"]) == wanted
    assert arguments["job_extra_directives"] == ["--exclusive"]
    assert arguments["log_directory"] == "logs"
    assert not {"scheduler_options", "job_extra", "job_script_prologue"} & set(arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for SLURM is a shell script")
def test_the_job_script_and_the_port_of_a_file_with_options(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    (here / "bin").mkdir()
    (here / "bin" / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {here}/job\nexit 1\n')
    (here / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    port = free_port()
    (here / "slurm.yaml").write_text(
        SLURM
        + "options:\n  worker_extra_args: ['--resources', 'FAST=1']\n  job_extra_directives: ['--constraint=a100']\n"
        f"  scheduler_options: {{port: {port}}}\n"
    )
    check_fail(
        run_cli(capfd, ARGS + "--cluster slurm.yaml"), ExpectFail("", "", ("slurm takes no jobs",), code=1)
    )
    script = (here / "job").read_text()
    assert "#SBATCH --constraint=a100\n" in script
    (command,) = [line for line in script.splitlines() if "--scheduler" in line or " tcp://" in line]
    assert f":{port} " in command
    for part in ("--nthreads 4", "--memory-limit 0", "--lifetime 1740s", "--resources FAST=1"):
        assert part in command


# What is refused

CLUSTER = "kind: slurm\nworkers: 2\ncores: 1\nmemory: 1GB\n"
REFUSED = [
    ("", "--scheduler tcp://127.0.0.1:1", "--scheduler tcp://127.0.0.1:1: no Dask scheduler answers there"),
    ("", "--scheduler none.json", "--scheduler none.json: no such file; give tcp://HOST:PORT"),
    (
        "not JSON",
        "--scheduler file.yaml",
        "--scheduler file.yaml: cannot be read as the file of a Dask scheduler",
    ),
    ("", "--scheduler http://a:1", "--scheduler http://a:1: must be tcp://HOST:PORT"),
    (CLUSTER, "--scheduler tcp://a:1 --cluster file.yaml", "--scheduler and --cluster: both say"),
    (CLUSTER, "--executor threads --cluster file.yaml", "--executor threads: --cluster says"),
    ("", "--cluster none.yaml", "--cluster none.yaml: no such file"),
    ("a: [", "--cluster file.yaml", "--cluster file.yaml: cannot be read as YAML"),
    ("- a", "--cluster file.yaml", "--cluster file.yaml: must be lines of NAME: VALUE"),
    (
        "kind: slurm",
        "--cluster file.yaml",
        "--cluster file.yaml: workers is missing; it must be a whole number, at least 1",
    ),
    (
        CLUSTER + "gpu: 1",
        "--cluster file.yaml",
        "--cluster file.yaml: unknown name 'gpu'; did you mean 'gpus'?",
    ),
    (CLUSTER + "gpus: x", "--cluster file.yaml", "gpus 'x' must be a whole number, at least 0"),
    (
        CLUSTER.replace("slurm", "cron"),
        "--cluster file.yaml",
        "kind 'cron' must be slurm, pbs, lsf or sge",
    ),
    (CLUSTER.replace("2", "0"), "--cluster file.yaml", "workers 0 must be a whole number, at least 1"),
    (
        CLUSTER + "options: {job_extra_directives: --constraint=a100}",
        "--cluster file.yaml",
        "options.job_extra_directives '--constraint=a100' must be a list of texts of one line",
    ),
    (
        CLUSTER + "options: {worker_extra_args: [[--resources]]}",
        "--cluster file.yaml",
        "options.worker_extra_args [['--resources']] must be a list of texts",
    ),
    (
        CLUSTER + "options: {scheduler_options: 8790}",
        "--cluster file.yaml",
        "8790 must be lines of NAME: VALUE",
    ),
    (CLUSTER + "options: {silence_logs: 1}", "--cluster file.yaml", "options.silence_logs: is set by"),
    (CLUSTER.replace("1GB", "8"), "--cluster file.yaml", "memory 8 must be a size with its unit"),
    (CLUSTER.replace("1GB", "much"), "--cluster file.yaml", "memory 'much' must be a size with its unit"),
    (CLUSTER + "walltime: 1h", "--cluster file.yaml", "walltime '1h' must be"),
    (CLUSTER + 'walltime: "00:01:00"', "--cluster file.yaml", "must be more than 120 seconds"),
    (CLUSTER, "--cluster file.yaml --executor auto", "--cluster file.yaml: slurm takes no jobs"),
    ("", "--security none.yaml --executor processes", "--security none.yaml: no such file"),
    ("ca: a", "--security file.yaml", "--security: threads send nothing over a network"),
    (
        "ca: a",
        "--security file.yaml --executor processes",
        "--security file.yaml: cert is missing; it must be a path",
    ),
    ("ca: a\ncert: b\nkey: c", "--security file.yaml --executor processes", "ca a: no such file"),
    ("", "--dashboard 8787", "--dashboard 8787: must be HOST:PORT"),
    ("", "--dashboard 127.0.0.1:1 --scheduler tcp://a:1", "the scheduler of --scheduler has its own"),
]


@pytest.mark.parametrize(("text", "args", "says"), REFUSED, ids=[row[2] for row in REFUSED])
def test_refused_in_one_line(
    text: str,
    args: str,
    says: str,
    here: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    if text:
        Path("file.yaml").write_text(text)
    before = sorted(path.name for path in here.iterdir())
    outcome = run_cli(capfd, ARGS + args)
    check_fail(outcome, ExpectFail("", "", (says,), code=1 if "takes no jobs" in says else 2))
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_worker_that_would_make_another_slide_is_refused(here: Path) -> None:
    from safron.engine.preparation.prepare import prepare

    job = prepare("mask.zarr", "out.tiff", RenderOptions(model="identity", tile=64, block=512)).job
    source = ModelSource("identity", "cpu", 1)
    payload = JobPayload.pack("token", job, source)
    assert payload.unpack(sharers=1).plan == job.plan

    def changed(**values: Any) -> JobPayload:
        from dataclasses import replace

        return replace(payload, **values)

    for values, says in (
        (
            {"versions": payload.versions | {"numpy": "1.0"}},
            "where the driver has 1.0; install the same versions",
        ),
        ({"sha256": "0"}, "differs from the driver's file"),
        ({"device": "cuda"}, "runs on cpu, the render on cuda"),
    ):
        with pytest.raises(Failed, match=says):
            changed(**values).unpack(sharers=1)


def test_a_worker_whose_driver_is_gone_writes_into_no_other_render(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a scheduler that outlives its driver, a block may still be in flight when another render begins."""
    from safron.engine.execution.dask_worker import WorkerSession
    from safron.engine.execution.device_queue import Stopped
    from safron.engine.execution.tasks import boundary_task
    from safron.engine.preparation.prepare import prepare

    class Worker:
        address, state = "tcp://here", type("State", (), {"nthreads": 1})

        def log_event(self, *args: Any) -> None:
            pass

    job = prepare("mask.zarr", "out.tiff", RenderOptions(model="identity", tile=64, block=512)).job
    job.scratch.create(job.plan, {"--seed": "0"})
    session = WorkerSession(JobPayload.pack("token", job, ModelSource("identity", "cpu", 1)), Worker())
    assert session.run("boundary", boundary_task, (0, 0)).index == (0, 0)
    job.scratch.create(job.plan, {"--seed": "1"})
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.6)
    with pytest.raises(Stopped):
        session.run("boundary", boundary_task, (0, 0))
    assert not job.scratch.boundaries.stored()


def test_a_worker_loads_the_generator_once() -> None:
    source = ModelSource("identity", "cpu", 1)
    assert isinstance(source.load(), IdentityModel)
    assert source.load() is source.load()
