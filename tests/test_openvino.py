"""OpenVINO as a runtime: the same pixels however it is called, in which precision, and what happens where it is not there."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from cases import ExpectFail, check_fail, render_cli, run_cli, write_mask
from onnx_models import ADAPTED, CARD, CONTEXT, TILE, write_foreign, write_onnx
from safron.engine.generator import devices, openvino_session, shipped
from safron.engine.generator.card import Card, parse_card
from safron.engine.generator.devices import choose_runtime
from safron.engine.generator.model import GeneratorInfo, load_model
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.openvino_session import cache_folder, openvino_version
from safron.engine.generator.shipped import MODELS
from safron.io.errors import BadInput, Failed

pytest.importorskip("openvino")
pytest.importorskip("onnx")

SIDE = TILE + 2 * CONTEXT
SEAMLESS = MODELS / "safron-seamless.onnx"
PRECISIONS = ("float32", "bfloat16")
ARGS = "mask.zarr out.tiff --tile 64 --overlap 12 --block 256 --tiff-tile 128 --device cpu --workers 2 --model safron-seamless "


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return cache_folder()


def load(path: Path = SEAMLESS, precision: str = "float32", **options: Any) -> OnnxModel:
    if precision == "bfloat16" and not openvino_session.has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    options = {"threads": 2, "runtime": "openvino"} | options
    return OnnxModel(path, device="cpu", precision=precision, **options)


Inputs = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


def inputs(count: int, height: int = SIDE + 32, width: int = SIDE + 32, *, seed: int = 0) -> Inputs:
    """Areas of labels, and noise, for the shipped generator: its context is 20."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 3, (count, height // 20 + 1, width // 20 + 1), np.uint8)
    labels = cells.repeat(20, axis=1).repeat(20, axis=2)[:, :height, :width]
    return np.ascontiguousarray(labels), rng.standard_normal((count, 5, height, width), np.float32)


def test_a_kept_generator_is_used_where_it_was_read(cache: Path) -> None:
    """Each copy of a large one would take hundreds of MiB."""
    model = load()
    made = model(*inputs(1))
    (kept,) = cache.glob("*.blob")
    tracemalloc.start()
    again = openvino_session.OpenVinoSession(SEAMLESS, sha256=model.sha256, calls=2, precision="float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * kept.stat().st_size
    labels, noise = inputs(1)
    assert np.array_equal(again.run(["image"], {"labels": labels, "noise": noise})[0], made)


def some_labels(count: int = 2) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 3, (count, SIDE, SIDE), np.uint8)


def test_float32_differs_from_onnx_runtime_by_rounding_alone() -> None:
    reference = OnnxModel(SEAMLESS, device="cpu", threads=1)
    ours = load()
    assert reference.runtime.startswith("ONNX Runtime ")
    assert (ours.runtime, ours.precision) == (f"OpenVINO {openvino_version()}", "float32")
    np.testing.assert_allclose(ours(*inputs(2)), reference(*inputs(2)), atol=0.01)


def test_bfloat16_is_within_half_a_level() -> None:
    reference = np.rint(load()(*inputs(4)))
    ours = load(precision="bfloat16")
    assert ours.precision == "bfloat16"
    off = np.abs(np.rint(ours(*inputs(4))) - reference)
    assert 0 < off.mean() < 0.5
    assert off.max() <= 12


def in_float32(model: OnnxModel) -> list[str]:
    """Convolutions of a compiled generator that are computed in float32."""
    nodes = model._session._compiled.get_runtime_model().get_ordered_ops()
    facts = [
        (
            node.get_friendly_name(),
            *(node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")),
        )
        for node in nodes
    ]
    return [name for name, kind, precision in facts if (kind, precision) == ("Convolution", "f32")]


def test_what_reads_guides_stays_in_float32() -> None:
    """Distances in pixels need more than the eight bits of bfloat16: single pixels were 31 levels off."""
    path = MODELS / "safron-tissue.onnx"
    reference = OnnxModel(path, device="cpu", threads=1)
    labels = inputs(2)[0]
    rng, (count, height, width) = np.random.default_rng(5), labels.shape
    far = rng.uniform(-1, 1, (count, 3, 1, 1)) + np.linspace(-0.3, 0.3, width)
    given = {
        "labels": labels,
        "noise": rng.standard_normal((count, 6, height, width), np.float32),
        "guides": np.broadcast_to(far, (count, 3, height, width)).astype(np.float32),
        "style": np.tile(np.float32(reference.card.style.default), (count, 1)),
    }
    expected = np.rint(reference(**given))
    for _ in range(2):  # compiled, then from the cache
        ours = load(path, "bfloat16")
        assert in_float32(ours) == [f"/network/{name}/Conv/WithoutBiases" for name in ("stem", "down1")]
        off = np.abs(np.rint(ours(**given)) - expected)
        assert off.mean() < 0.5
        assert off.max() <= 12
    assert in_float32(load(precision="bfloat16")) == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_patch_has_the_same_bits_in_any_batch_on_any_thread_and_beside_any_others(precision: str) -> None:
    labels, noise = inputs(5)
    one, two = load(precision=precision, threads=1), load(precision=precision, threads=2)
    expected = one(labels, noise)
    assert np.array_equal(two(labels[2:4], noise[2:4]), expected[2:4])

    def call(index: int) -> bool:
        return np.array_equal(two(labels[index : index + 1], noise[index : index + 1])[0], expected[index])

    with ThreadPoolExecutor(4) as pool:  # more than there are streams
        assert all(pool.map(call, [*range(5)] * 3))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_other_sizes_in_between_change_no_bit(precision: str) -> None:
    """Scratch of the last call, which had another shape, must not show."""
    model = load(precision=precision)
    before = model(*inputs(1))
    model(*inputs(1, 200, 200, seed=3))
    assert np.array_equal(model(*inputs(1)), before)


def test_the_session_stays_behind() -> None:
    model = load()
    packed = pickle.dumps(model)
    assert len(packed) < 4000
    copy = pickle.loads(packed)
    assert "_session" not in vars(copy)
    assert GeneratorInfo.of(copy) == GeneratorInfo.of(model)
    assert np.array_equal(copy(*inputs(1)), model(*inputs(1)))


@pytest.mark.parametrize("count", [1, 3, "n"])
def test_a_network_made_elsewhere(tmp_path: Path, count: int | str) -> None:
    path = write_foreign(tmp_path / "m.onnx", card=ADAPTED, count=count)
    labels = np.random.default_rng(1).integers(0, 3, (4, TILE, TILE), np.uint8)
    np.testing.assert_allclose(
        load(path)(labels), OnnxModel(path, device="cpu", threads=1)(labels), atol=0.01
    )


@pytest.mark.parametrize(
    "options", [{"image_type": "FLOAT16"}, {"count": 2}, {"side": SIDE}, {"count": 1, "side": SIDE}]
)
def test_half_precision_and_fixed_sizes(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_onnx(tmp_path / "m.onnx", card=CARD | {"tile": TILE}, **options)
    labels = some_labels(3)
    model = load(path)
    image = model(labels)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, OnnxModel(path, device="cpu", threads=1)(labels))
    assert model.per_call == options.get("count", 1)


def test_the_contract_is_checked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"input 'labels' must be tensor\(uint8\), found tensor\(float\)"):
        load(write_onnx(tmp_path / "m.onnx", card=CARD, label_type="FLOAT"))
    with pytest.raises(BadInput, match=r"unknown inputs \['noise'\]"):
        load(write_onnx(tmp_path / "m.onnx", card=CARD, noise=1))
    with pytest.raises(BadInput, match="output 'image' is missing"):
        load(write_onnx(tmp_path / "m.onnx", card=CARD, image_name="picture"))
    with pytest.raises(Failed, match=r"returned \(1, 62, 62, 3\)"):
        load(write_onnx(tmp_path / "m.onnx", card=CARD, crop=CONTEXT + 1))(some_labels(1))
    broken = load(write_onnx(tmp_path / "m.onnx", card=CARD, reshape_to=(1, 60, 60, 3)))
    with pytest.raises(Failed, match=r"generator 'tiny' failed on \(1, 72, 72\): "):
        broken(some_labels(1))


# The cache.


def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the files that are compiled from now on."""
    made: list[str] = []
    core = openvino_session.open_core()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def compile_model(self, *args: Any) -> Any:
            made.append("one")
            return core.compile_model(*args)

    monkeypatch.setattr(openvino_session, "_core", Counting())
    return made


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_cache_gives_the_same_bits(precision: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiles(monkeypatch)
    first = load(precision=precision)(*inputs(2))
    assert (len(made), len([*cache.iterdir()])) == (1, 1)
    assert np.array_equal(load(precision=precision)(*inputs(2)), first)
    assert len(made) == 1
    load(precision="float32", threads=1)
    assert len(made) == 2  # another setting, another entry


def flip(content: bytes) -> bytes:
    return content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]


def forge(content: bytes) -> bytes:
    """Put a good checksum on what is no model."""
    import hashlib

    return hashlib.sha256(b"no model").digest() + b"no model"


@pytest.mark.parametrize("damage", [flip, forge, lambda content: content[:5000], lambda content: b""])
def test_a_damaged_cache_is_made_anew(
    damage: Callable[[bytes], bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load()(*inputs(1))
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    made = compiles(monkeypatch)
    assert np.array_equal(load()(*inputs(1)), expected)
    assert len(made) == 1
    load()
    assert len(made) == 1  # the entry is good again


def test_no_cache_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load()(*inputs(1)).shape == (1, 64, 64, 3)


def test_old_entries_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    old = cache / "old.blob"
    old.write_bytes(b"x" * 1000)
    monkeypatch.setattr(openvino_session, "CACHE_BYTES", 2 << 20)
    load()
    assert old.exists()
    monkeypatch.setattr(openvino_session, "CACHE_BYTES", 1000)
    load(threads=1)
    assert len([*cache.iterdir()]) == 1


def test_other_weights_beside_the_file_are_another_entry(tmp_path: Path) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    path = write_onnx(tmp_path / "m.onnx", card=CARD)
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name == "scale":
            set_external_data(tensor, "w.bin")
    onnx.save(model, str(path))
    before = load(path)(some_labels(1)).max()
    weights = tmp_path / "w.bin"
    weights.write_bytes(weights.read_bytes().replace(np.float32(60).tobytes(), np.float32(61).tobytes()))
    assert (before, load(path)(some_labels(1)).max()) == (120, 122)


def test_nothing_is_reported_over_the_network(tmp_path: Path) -> None:
    """OpenVINO imports its telemetry if that is installed, as pip does."""
    package = tmp_path / "openvino_telemetry"
    package.mkdir()
    (package / "__init__.py").write_text(
        "open('told', 'w')\nclass Telemetry:\n    def __getattr__(self, name): ...\n"
    )
    (package / "backend.py").write_text("backend_ga4 = None\n")
    script = "from safron.engine.generator.openvino_session import open_core; open_core(); import openvino_telemetry"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for code, told in ((script.rpartition(";")[0], False), (script, True)):
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
        assert (tmp_path / "told").exists() == told


# What is refused, and what is done instead.


def absent(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(openvino_session, "find_spec", lambda name: None)
    monkeypatch.setattr(openvino_session, "_core", None)
    return "OpenVINO is not installed"


def too_old(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(openvino_session, "version", lambda name: "2025.3.0")
    monkeypatch.setattr(openvino_session, "_core", None)
    return "OpenVINO 2025.3.0 is older than 2026.4"


def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    import openvino

    def fails() -> None:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(openvino, "Core", fails)
    monkeypatch.setattr(openvino_session, "_core", None)
    return f"OpenVINO {openvino_version()} does not start (libtbb.so.12: cannot open shared object file)"


@pytest.mark.parametrize("fault", [absent, too_old, broken])
def test_where_openvino_is_not_there(
    fault: Callable[[pytest.MonkeyPatch], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    says = fault(monkeypatch)
    for asked in ({"runtime": "openvino"}, {"precision": "bfloat16"}):
        with pytest.raises(BadInput) as refused:
            load_model("safron-seamless", **asked)
        assert str(refused.value).startswith(f"--runtime openvino: {says}")
        assert "\n" not in str(refused.value)
        assert "--runtime onnxruntime" in str(refused.value)
    with caplog.at_level(logging.WARNING):
        model = load_model("safron-seamless", precision="auto", device="cpu")
    assert GeneratorInfo.of(model).runtime.startswith("ONNX Runtime")
    (said,) = caplog.messages
    assert said.startswith(f"--precision auto: float32 is used, since {says}; ")


def test_a_file_that_openvino_cannot_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = CARD | {"bfloat16": {"mean": 0.1, "max": 2}}
    path = write_onnx(tmp_path / "m.onnx", card=card)

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def read_model(self, path: str) -> None:
            raise RuntimeError("Check 'x' failed\nOperator ABC is not supported")

    core = openvino_session.open_core()
    monkeypatch.setattr(openvino_session, "_core", Failing())
    monkeypatch.setattr(devices, "_why_not_bfloat16", lambda *args: None)
    monkeypatch.setattr(openvino_session, "has_bfloat16", lambda: True)
    with pytest.raises(BadInput, match=r"m\.onnx: OpenVINO cannot compile it .*; use --runtime onnxruntime$"):
        OnnxModel(path, device="cpu", runtime="openvino")
    with caplog.at_level(logging.WARNING):
        model = OnnxModel(path, device="cpu", precision="auto")
    assert (model.precision, model.runtime.partition(" 1")[0]) == ("float32", "ONNX Runtime")
    (said,) = caplog.messages
    assert said.startswith("--precision auto: float32 is used (--model ")


def test_a_cpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(openvino_session, "has_bfloat16", lambda: False)
    with pytest.raises(
        BadInput, match=r"^--precision bfloat16: this CPU does not compute in it .*; leave it out$"
    ):
        load_model("safron-seamless", precision="bfloat16")
    with caplog.at_level(logging.WARNING):
        assert (
            GeneratorInfo.of(load_model("safron-seamless", precision="auto", device="cpu")).precision
            == "float32"
        )
    assert caplog.messages == [
        "--precision auto: float32 is used, since this CPU does not compute in bfloat16 (AVX512_BF16 or AMX)"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorflow"}, "--runtime tensorflow: must be one of auto, onnxruntime, openvino"),
        (
            {"runtime": "onnxruntime", "precision": "bfloat16"},
            "--precision bfloat16: only OpenVINO computes in it, on a CPU; ",
        ),
        ({"runtime": "openvino", "precision": "tf32"}, "--precision tf32: only CUDA computes in it"),
        ({"device": "cuda", "precision": "bfloat16"}, "--precision bfloat16: only OpenVINO computes in it"),
        ({"device": "cuda", "runtime": "openvino"}, "--runtime openvino: runs on a CPU, not on cuda:0; "),
    ],
)
def test_what_does_not_go_together(
    options: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cuda_may_start", lambda: True)
    with pytest.raises(BadInput, match=f"^{message}"):
        load_model("safron-seamless", **options)


def card(**fields: Any) -> Card:
    return parse_card(json.dumps(CARD | fields), source="card")


def test_a_gpu_and_a_card_that_does_not_allow_it_leave_float32(caplog: pytest.LogCaptureFixture) -> None:
    allowing = card(bfloat16={"mean": 0.3, "max": 6})
    with caplog.at_level(logging.WARNING):
        assert choose_runtime("auto", "auto", "cuda:0", allowing) == ("onnxruntime", "float32")
        assert choose_runtime("openvino", "auto", "cpu", card()) == ("openvino", "float32")
        assert choose_runtime("onnxruntime", "auto", "cpu", allowing) == ("onnxruntime", "float32")
    assert len(caplog.messages) == 3
    assert "card of generator 'tiny' does not say" in caplog.messages[1]
    # Without being asked nothing changes, whatever is installed and allowed.
    assert choose_runtime("auto", "float32", "cpu", allowing) == ("onnxruntime", "float32")
    with pytest.raises(BadInput, match="bfloat16"):
        card(bfloat16=0.3)


def test_shipped_generators_allow_it() -> None:
    for name, (mean, most) in shipped.BFLOAT16.items():
        allowed = OnnxModel(MODELS / f"{name}.onnx", device="cpu", threads=1).card.bfloat16
        assert allowed is not None
        assert (allowed.mean, allowed.max) == (mean, most)


# Whole renders.


def test_slide_and_report_name_it_and_nothing_else_continues_it(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(precision="bfloat16")
    write_mask("mask.zarr", 180, 200)
    plain = render_cli(capfd, ARGS + "--overwrite")
    digests = {
        render_cli(capfd, ARGS + f"--precision bfloat16 --overwrite {more}")["digest"]
        for more in ("", "--batch 3 --threads 1 --workers 1", "--block 128")
    }
    report = render_cli(capfd, ARGS + "--precision auto --overwrite")
    assert digests == {report["digest"]}
    assert report["digest"] != plain["digest"]
    assert (report["runtime"], report["precision"]) == (f"OpenVINO {openvino_version()}", "bfloat16")
    assert (plain["runtime"].partition(" 1")[0], plain["precision"]) == ("ONNX Runtime", "float32")
    with tifffile.TiffFile("out.tiff") as file:
        described = file.pages[0].description
    assert "Generator runtime" in described
    assert "bfloat16" in described
    outcome = run_cli(capfd, ARGS + "--precision bfloat16 --dry-run --overwrite")
    assert f"on cpu, OpenVINO {openvino_version()} in bfloat16, batch size" in outcome.out
    refused = run_cli(capfd, ARGS + "--precision bfloat16 --runtime onnxruntime --overwrite")
    check_fail(refused, ExpectFail("", "", ("--precision bfloat16: only OpenVINO",)))


@pytest.mark.usefixtures("forked")
def test_worker_processes_make_the_same_slide(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(precision="bfloat16")
    write_mask("mask.zarr", 120, 120)
    there = render_cli(capfd, ARGS + "--precision bfloat16 --executor processes")
    here_made = render_cli(capfd, ARGS + "--precision bfloat16 --overwrite")
    assert there["digest"] == here_made["digest"]
    assert there["precision"] == "bfloat16"


def test_a_worker_with_another_runtime_is_refused(here: Path) -> None:
    from safron.engine.execution.dask_worker import JobPayload, ModelSource
    from safron.engine.preparation.options import RenderOptions
    from safron.engine.preparation.prepare import prepare

    write_mask("mask.zarr", 120, 120)
    options = RenderOptions(device="cpu", tile=64, overlap=12, block=512)
    job = prepare("mask.zarr", "out.tiff", options).job
    source = ModelSource("safron-tissue", "cpu", 1, runtime="openvino")
    payload = JobPayload.pack("token", job, source)
    with pytest.raises(
        Failed, match=r"^runs OpenVINO [\d.]+ in float32, the render ONNX Runtime [\d.]+ in float32; "
    ):
        payload.unpack(sharers=1)
    info = replace(job.model, runtime=f"OpenVINO {openvino_version()}")
    assert JobPayload.pack("token", replace(job, model=info), source).unpack(sharers=1).plan == job.plan
