"""Is there a faster graph for this generator, and does it produce the same pixels?

A rewritten generator is a separate file with its own SHA-256. So rendering does not need the ``onnx`` package, and a render
started with one of the two files is never resumed with the other.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.planes import Inputs, call_with, card_sources, first_step, one_patch
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, Failed, counted, one_line
from safron.io.files import check_output_path, publish, what_is_there

if TYPE_CHECKING:
    import onnx

    from .rewrite import Rewritten

LEVELS_LIMIT, FLOAT_LIMIT = 1, 0.01
"""Largest accepted difference in grey levels: of rounded pixels, and of the values before rounding."""


@dataclass(frozen=True)
class Optimized:
    """The result of `optimize`.

    Attributes
    ----------
    changes
        One line for each part of the graph that was replaced.
    max_abs
        Largest difference of any value, 0..255, over the test windows.
    levels
        Largest difference of any rounded pixel.
    seconds_before, seconds_after
        Median time per patch of the old and of the new graph, called alternately.
    """

    changes: tuple[str, ...]
    max_abs: float
    levels: int
    seconds_before: float
    seconds_after: float


def optimize(source: Path, out: Path, *, overwrite: bool = False, runtime: str = "onnxruntime") -> Optimized:
    """Write a faster graph of a generator after comparing both.

    Parameters
    ----------
    source
        A generator: an ONNX file with a card in it or beside it.
    out
        The new file. If there is a card beside `source`, a copy is put beside it.
    overwrite
        Replace existing files; a card beside the old `out` is replaced or deleted with it.
    runtime
        "onnxruntime" or "openvino": what is to run the new file.

    Raises
    ------
    BadInput
        Nothing in the graph can be made faster, a file is missing, or `out` exists.
    Failed
        The new graph fails or produces other pixels; nothing is written.
    """
    if not source.is_file():
        raise BadInput(f"IN {source}: {what_is_there(source)}; give an ONNX file")
    cards = source.with_suffix(".json"), out.with_suffix(".json")
    if out.suffix != ".onnx" or cards[0].resolve() == cards[1].resolve():
        raise BadInput(f"OUT {out}: must end in .onnx and differ from {source} in more than the ending")
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in (out, cards[1]):
        check_output_path(path, overwrite=overwrite)
    before = OnnxModel(source, device="cpu")
    rewritten = _rewritten(before, runtime)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as folder:
        new = Path(folder) / out.name
        _save(rewritten.model, new)
        if cards[0].is_file():
            new.with_suffix(".json").write_bytes(cards[0].read_bytes())
        try:
            after = OnnxModel(new, device="cpu")
        except BadInput as error:  # a fault of the rewriting; the file that the message names is temporary
            reason = one_line(error).replace(str(new), out.name)
            raise Failed(
                f"{source}: the rewritten graph is not a valid generator ({reason}); render with the original"
            ) from error
        done = _compare(before, after, rewritten.changes)
        if runtime == "openvino":
            slow, fast = (_openvino_seconds(path) for path in (source, new))
            done = replace(done, seconds_before=slow, seconds_after=fast)
        about = {"rewritten_from": before.sha256, "rewrite_max_abs": done.max_abs}
        if cards[0].is_file():
            card = json.loads(cards[0].read_text(encoding="utf-8")) | about
            new.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        else:
            _put_on_card(rewritten.model, about)
            _save(rewritten.model, new)
        _put_in_place(new, out, overwrite=overwrite)
    return done


def _put_in_place(new: Path, out: Path, *, overwrite: bool) -> None:
    """Move a generator, and the card beside it if it has one.

    If interrupted, this leaves no generator rather than one with the wrong card.
    """
    card, old = new.with_suffix(".json"), out.with_suffix(".json")
    if overwrite:
        out.unlink(missing_ok=True)
        old.unlink(missing_ok=True)  # it would take precedence over the card inside the file
    if card.is_file():
        publish(card, old, overwrite=overwrite)
    publish(new, out, overwrite=overwrite)


def _save(model: onnx.ModelProto, path: Path) -> None:
    try:
        path.write_bytes(model.SerializeToString())
    except ValueError as error:  # the limit of protobuf is 2 GiB
        raise BadInput(f"{path.name}: too large for one ONNX file ({one_line(error)})") from error


def _rewritten(generator: OnnxModel, runtime: str) -> Rewritten:
    """Return the graph of a generator that is faster in a runtime."""
    try:
        import onnx
    except ImportError as error:
        raise BadInput(
            "rewriting needs onnx, which is not installed; run: pip install 'safron[optimize]'"
        ) from error
    from .packing import pack
    from .rewrite import Rewritten, rewrite

    values = [] if generator.card.adapter else [label.value for label in generator.card.labels]
    rewritten = rewrite(onnx.load(str(generator.path)), label_values=values, runtime=runtime)
    if runtime == "onnxruntime":
        even = not any(side % 2 for side in (generator.card.tile, generator.card.tile_multiple or 2))
        model, changes = pack(rewritten.model, even=even)
        rewritten = Rewritten(model, rewritten.changes + changes)
    if not rewritten.changes:
        raise BadInput(f"{generator.path}: nothing in it can be made faster; render with it as it is")
    return rewritten


def _put_on_card(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    for entry in model.metadata_props:
        if entry.key == "safron":
            entry.value = json.dumps(json.loads(entry.value) | about)


def example_patches(generator: OnnxModel, *, seed: int = 0) -> list[Inputs]:
    """Return the inputs of some patches: uniform labels, then fine to coarse mixtures of all labels."""
    card = generator.card
    side = card.tile + 2 * card.context
    values = np.array([label.value for label in card.labels], np.uint8)
    rng = np.random.default_rng(seed)
    planes = [np.full((side, side), value) for value in values[:3]]
    for grain in (1, 8, 40, 120):
        cells = rng.choice(values, (-(-side // grain),) * 2)
        planes.append(np.kron(cells, np.ones((grain, grain), np.uint8))[:side, :side])
    window = Window(0, 0, side, side)
    return [
        one_patch(
            (*card_sources(card, plane, seed=seed + index), *first_step(card, seed=seed + index)),
            plane,
            window,
        )
        for index, plane in enumerate(planes)
    ]


def _compare(before: OnnxModel, after: OnnxModel, changes: tuple[str, ...]) -> Optimized:
    """Run both graphs on the same windows, alternately."""
    seconds: tuple[list[float], list[float]] = ([], [])
    max_abs, levels = 0.0, 0
    for inputs in example_patches(before):
        images = []
        for generator, times in zip((before, after), seconds, strict=True):
            start = time.perf_counter()
            image = call_with(generator, inputs)
            images.append(image.astype(np.float64))
            times.append(time.perf_counter() - start)
        max_abs = max(max_abs, float(np.abs(images[1] - images[0]).max()))
        pixels = [np.rint(image).clip(0, 255) for image in images]
        levels = max(levels, int(np.abs(pixels[1] - pixels[0]).max()))
    if levels > LEVELS_LIMIT or max_abs > FLOAT_LIMIT:
        raise Failed(
            f"{before.path}: pixels of the rewritten graph differ by {counted(levels, 'level')} ({max_abs:.2g} before rounding); "
            "nothing was written, render with the original"
        )
    # The first call of each also allocates memory.
    return Optimized(changes, max_abs, levels, median(seconds[0][1:]), median(seconds[1][1:]))


def _openvino_seconds(path: Path) -> float:
    """Return the time per patch of a file with OpenVINO, in bfloat16 where the CPU has it."""
    from safron.engine.generator.openvino_session import has_bfloat16

    precision = "bfloat16" if has_bfloat16() else "float32"
    generator = OnnxModel(path, device="cpu", threads=1, runtime="openvino", precision=precision)
    times = []
    for inputs in example_patches(generator):
        start = time.perf_counter()
        call_with(generator, inputs)
        times.append(time.perf_counter() - start)
    return median(times[1:])
