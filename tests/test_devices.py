"""Where a generator runs when a GPU is only half there: said in one line, and the CPU does where it may."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import CARD, write_onnx
from safron.engine.generator import devices
from safron.engine.generator.devices import choose_device, nodes_on_cpu, providers
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.system import gpus
from safron.io.errors import BadInput, Failed

DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number >= GPUS; }
int cuDeviceGetName(char *name, int length, int device) { __builtin_strcpy(name, "H999"); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)7; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
static int depth = 0;
static long registered = 0;
int cuCtxPushCurrent_v2(void *context) { depth++; return context != (void *)7; }
int cuCtxPopCurrent_v2(void **context) { depth--; return 0; }
int cuMemHostRegister_v2(void *place, unsigned long size, unsigned flags) {
    if (depth != 1 || flags != 1 || size > 100000) return 1;
    registered += size;
    return 0;
}
int cuMemHostUnregister(void *place) { registered = 0; return depth != 1; }
long pinned(void) { return registered; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 1; return 0; }
"""


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of drivers that show no GPU, and one."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for a stand-in of CUDA's driver")
    folders = {}
    for count in (0, 1):
        folders[count] = folder = tmp_path_factory.mktemp(f"driver{count}")
        (folder / "driver.c").write_text(DRIVER.replace("GPUS", str(count)))
        command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "driver.c")]
        subprocess.run(command, check=True)
    return folders


def load(folder: Path, driver: Path, device: str, **environment: str) -> tuple[str, str, str]:
    """Load a generator in a process with a stand-in driver; return its device, its stdout and its stderr."""
    model = write_onnx(folder / "m.onnx", card=CARD)
    script = (
        "import logging, pathlib, sys\n"
        "logging.basicConfig(format='%(message)s')\n"
        "from safron.engine.generator.onnx_model import OnnxModel\n"
        "from safron.io.errors import BadInput, Failed\n"
        "try:\n"
        "    found = OnnxModel(sys.argv[1], device=sys.argv[2]).device\n"
        "except BadInput as error:\n"
        "    found = str(error)\n"
        "pathlib.Path(sys.argv[3]).write_text(found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), device, str(folder / "found")],
        env=os.environ | {"LD_LIBRARY_PATH": str(driver)} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return (folder / "found").read_text(), done.stdout, done.stderr


def test_gpus_are_told_apart_by_what_decides_their_pixels(drivers: dict[int, Path]) -> None:
    """Two kinds of GPU, or two versions of CUDA, may round differently, so a render does not go on with the other."""
    script = (
        "from safron.engine.system.gpus import describe_gpu; print(describe_gpu(0)); print(describe_gpu(1))"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(drivers[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["H999 (9.1), CUDA 13.1", "no GPU 1"]


def test_memory_of_batches_is_pinned_and_kept(drivers: dict[int, Path]) -> None:
    """It is used again when nobody holds it; what the driver does not lock is ordinary memory."""
    script = (
        "import ctypes, gc\n"
        "import numpy as np\n"
        "from safron.engine.generator.host_memory import HostMemory\n"
        "pinned = ctypes.CDLL('libcuda.so.1').pinned\n"
        "memory = HostMemory('cuda:0')\n"
        "first = memory.empty((2, 100, 8), np.float32)\n"
        "place, part = first.ctypes.data, first[1]\n"
        "assert place % 4096 == 0 and pinned() == first.nbytes == 6400\n"
        "del first\n"
        "other = memory.empty((1600,), np.float32)\n"
        "assert other.ctypes.data != place and pinned() == 12800\n"
        "del part\n"
        "assert memory.empty((6400,), np.uint8).ctypes.data == place and pinned() == 12800\n"
        "large = memory.empty((200000,), np.uint8)\n"
        "large[:] = 1\n"
        "assert pinned() == 12800\n"
        "del other, large, memory\n"
        "gc.collect()\n"
        "assert pinned() == 0\n"
        "HostMemory('cpu').empty((6400,), np.uint8)\n"
        "HostMemory('cuda:1').empty((6400,), np.uint8)\n"
        "assert pinned() == 0\n"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(drivers[1])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


class Recorder:
    """A session that counts the bindings that it gives, and what is bound to them."""

    def __init__(self, session: Any) -> None:
        self.session, self.bindings = session, 0
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def io_binding(self) -> Any:
        self.bindings += 1
        binding = self.session.io_binding()
        bind_input, bind_output = binding.bind_cpu_input, binding.bind_output

        def cpu_input(name: str, values: Any) -> None:
            self.inputs.append(values.ctypes.data)
            bind_input(name, values)

        def output(name: str, *how: Any) -> None:
            self.outputs.append(how[-1])
            bind_output(name, *how)

        binding.bind_cpu_input, binding.bind_output = cpu_input, output
        return binding


def test_calls_on_a_gpu_keep_their_binding_and_their_memory(tmp_path: Path) -> None:
    """The binding is ONNX Runtime's own, of a session on the CPU; only the model takes itself to be on a GPU."""
    model = OnnxModel(write_onnx(tmp_path / "m.onnx", card=CARD), device="cpu")
    labels = np.random.default_rng(0).integers(0, 3, (4, 72, 72), np.uint8)
    expected = model(labels)
    model.device, model._session = "cuda:0", Recorder(model._session)
    model.__dict__.pop("per_call")
    first = model(labels)
    assert np.array_equal(first, expected)
    second = model(labels[::-1].copy())
    assert np.array_equal(second, expected[::-1])
    assert np.array_equal(first, expected), "an image that is still held is not written to"
    place = first.ctypes.data
    del first
    assert model(labels).ctypes.data == place
    said = model._session
    assert (said.bindings, len(said.inputs), said.outputs[2]) == (1, 3, place)
    assert said.inputs[0] == labels.ctypes.data, "the batch goes from where it lies"
    with pytest.raises(Failed, match="the contract wants"):
        model(labels[:, :5])
    assert np.array_equal(model(labels), expected)
    assert pickle.loads(pickle.dumps(model)).device == "cuda:0"


def cuda_starts() -> bool:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime without CUDA")
    return gpus.count_gpus() > 0


def test_a_driver_without_cuda_libraries_leaves_the_cpu(tmp_path: Path, drivers: dict[int, Path]) -> None:
    if cuda_starts():
        pytest.skip("a GPU is there")
    found, out, err = load(tmp_path, drivers[1], "auto")
    assert (found, out) == ("cpu", "")
    assert err.startswith("--device auto: cuda:0 cannot be used (ONNX Runtime could not start CUDA; ")
    assert err.endswith("; rendering on the CPU\n")
    assert err.count("\n") == 1
    found, out, err = load(tmp_path, drivers[1], "cuda")
    assert (out, err) == ("", "")
    assert found.startswith("--device cuda:0: ONNX Runtime could not start CUDA; ")


@pytest.mark.parametrize(("count", "environment"), [(0, {}), (1, {"CUDA_VISIBLE_DEVICES": ""})])
def test_a_driver_that_shows_no_gpu_is_as_none(
    tmp_path: Path, drivers: dict[int, Path], count: int, environment: dict[str, str]
) -> None:
    """As on the login node of a cluster."""
    cuda_starts()
    assert load(tmp_path, drivers[count], "auto", **environment) == ("cpu", "", "")
    found, out, err = load(tmp_path, drivers[count], "cuda:1", **environment)
    assert (found, out, err) == (
        "--device cuda:1: no CUDA device or driver found; use --device cpu",
        "",
        "",
    )


def test_a_precision_that_was_asked_for_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cuda_may_start", lambda: True)
    if cuda_starts():
        pytest.skip("a GPU is there")
    with pytest.raises(BadInput, match="could not start CUDA"):
        OnnxModel(write_onnx(tmp_path / "m.onnx", card=CARD), device="auto", precision="tf32")


def test_no_gpu_is_looked_for_where_onnx_runtime_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(devices, "count_gpus", lambda: pytest.fail("asked"))
    assert choose_device("auto") == "cpu"


def test_cuda_is_loaded_from_the_packages_that_python_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where they were installed into another folder than ONNX Runtime."""
    import onnxruntime

    for name in ("cublas/lib/libcublas.so.13", "cudnn/lib/libcudnn.so.9", "other/lib/readme.txt"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True)
        (tmp_path / "nvidia" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    asked: list[str | None] = []

    def preload(directory: str | None = None) -> None:
        print("Failed to load libcublas.so.13")
        asked.append(directory)

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(devices, "count_gpus", lambda: 1)
    assert choose_device("auto") == "cuda:0"
    ours = [str(tmp_path / "nvidia" / name / "lib") for name in ("cublas", "cudnn")]
    assert [folder for folder in asked if folder and folder.startswith(str(tmp_path))] == ours
    assert asked[-1] is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("precision", "float16", "tf32"),
    [("float32", False, 0), ("float32", True, 1), ("tf32", False, 1), ("tf32", True, 1)],
)
def test_tensor_cores(precision: str, float16: bool, tf32: int) -> None:
    """Without TF32 ONNX Runtime takes them from float16, too."""
    cuda = providers("cuda:0", precision, "f" * 64, float16=float16)[0]
    assert cuda == ("CUDAExecutionProvider", {"device_id": 0, "use_tf32": tf32})


@dataclass
class Part:
    """As ONNX Runtime tells which provider runs what."""

    ep_name: str
    kinds: tuple[str, ...]

    def get_nodes(self) -> list[Any]:
        return [type("Node", (), {"op_type": kind}) for kind in self.kinds]


@dataclass(frozen=True)
class Assigned:
    says: str
    parts: list[Part] = field(default_factory=list)


@pytest.mark.parametrize(
    "case",
    [
        Assigned(""),
        Assigned("", [Part("CUDAExecutionProvider", ("Conv", "Resize"))]),
        Assigned("", [Part("CUDAExecutionProvider", ("Conv",)), Part("CPUExecutionProvider", ("Shape", "Gather"))]),
        Assigned(
            "2 Resize, 1 Conv",
            [Part("CPUExecutionProvider", ("Resize", "Shape", "Conv")), Part("CPUExecutionProvider", ("Resize",))],
        ),
    ],
    ids=lambda case: case.says,
)  # fmt: skip
def test_what_the_cpu_runs_for_a_gpu_is_named(case: Assigned) -> None:
    assert nodes_on_cpu(case.parts) == case.says


def test_a_generator_that_partly_runs_on_the_cpu_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A session on the CPU stands for one on a GPU."""
    import onnxruntime

    class Session(onnxruntime.InferenceSession):
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> Any:
            return [Part("CPUExecutionProvider", ("Resize",))]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(devices, "_cuda_may_start", lambda: True)
    model = OnnxModel(write_onnx(tmp_path / "m.onnx", card=CARD), device="auto")
    assert model.device == "cuda:0"
    assert [record.getMessage() for record in caplog.records] == [
        "cuda:0: 1 Resize of generator m.onnx run on the CPU, since CUDA has no kernel for them; expect it to be slow"
    ]
