"""How does a network that knows nothing of the generator contract run under it?

A card with an ``adapter`` says how the network takes its input and gives its picture. The engine goes on
seeing labels in and RGB 0..255 out; the translation is NumPy around the ONNX session::

    labels uint8 [N, y, x]  ->  numbers, one-hot or colours, scaled, channels first or last  ->  network
    RGB 0..255 [N, T, T, 3] <-  cropped, rescaled, channels last                             <-  network
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

if TYPE_CHECKING:
    from .card import Card

PAGE = "see docs/generator-contract.md"
KINDS = ("labels", "one_hot", "rgb")
LAYOUTS = ("nchw", "nhwc")
DEFAULT_RANGES = {"one_hot": (0.0, 1.0)}
TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class Adapter:
    """How a foreign network is called.

    Attributes
    ----------
    input : name of its input.
    kind : what it takes: "labels" (the mask's values), "one_hot" (one channel a label, in the card's order)
        or "rgb" (the labels' colours).
    layout : "nchw" or "nhwc", of the input.
    low, high : what 0 and 1 of a one-hot, or 0 and 255 of a colour, become. Not used for "labels".
    output : name of its output, an RGB image.
    output_layout : "nchw" or "nhwc", of the output.
    output_low, output_high : what stands for black and for full colour in the output.
    crop : output pixels cut from every side.
    noise : name of its noise input, float [N, K, y, x]; None where it takes none.
    """

    input: str
    kind: str
    layout: str
    low: float
    high: float
    output: str
    output_layout: str
    output_low: float
    output_high: float
    crop: int = 0
    noise: str | None = None


def parse_adapter(raw: Any) -> Adapter:
    """Read the card's field ``adapter``.

    Raises
    ------
    KeyError, TypeError, ValueError
        A field is missing or breaks its rule; `safron.engine.generator.card.parse_card` names the file.
    """
    given = _fields(raw, "adapter", {"input", "output", "noise"})
    into = _fields(given.get("input", {}), "adapter input", {"name", "kind", "layout", "range"})
    out = _fields(given.get("output", {}), "adapter output", {"name", "layout", "range", "crop"})
    kind = _one_of(into.get("kind"), "adapter input kind", KINDS)
    if kind == "labels" and "range" in into:
        raise ValueError("adapter input range is for kinds one_hot and rgb; labels go in as they are")
    low, high = (0.0, 1.0) if kind == "labels" else _range(into, "adapter input", DEFAULT_RANGES.get(kind))
    black, white = _range(out, "adapter output", None)
    crop = out.get("crop", 0)
    if type(crop) is not int or crop < 0:
        raise ValueError(f"adapter output crop {crop!r} must be a whole number, at least 0")
    noise = given.get("noise")
    return Adapter(
        input=_name(into, "adapter input"),
        kind=kind,
        layout=_one_of(into.get("layout", "nchw"), "adapter input layout", LAYOUTS),
        low=low,
        high=high,
        output=_name(out, "adapter output"),
        output_layout=_one_of(out.get("layout", "nchw"), "adapter output layout", LAYOUTS),
        output_low=black,
        output_high=white,
        crop=crop,
        noise=None if noise is None else _name({"name": noise}, "adapter noise"),
    )


def check_adapter(session: Any, card: Card, source: str) -> None:
    """Raise `BadInput` unless the network takes and gives what the card's adapter says."""
    adapter = card.adapter
    assert adapter is not None
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    wanted = [("input", adapter.input, inputs), ("output", adapter.output, outputs)]
    if adapter.noise is not None:
        wanted.append(("noise", adapter.noise, inputs))
    for what, name, found in wanted:
        if name not in found:
            raise BadInput(
                f"--model {source}: its card's adapter {what} is {name!r}, the graph has {sorted(found)}; {PAGE}"
            )
        if found[name].type not in TYPES:
            raise BadInput(
                f"--model {source}: {name!r} is {found[name].type}, which no adapter takes; {PAGE}"
            )
    known = {adapter.input, adapter.noise}
    if spare := sorted(set(inputs) - known):
        raise BadInput(f"--model {source}: inputs {spare} are not in its card's adapter; {PAGE}")
    if (adapter.noise is None) != (not card.noise_scales):
        raise BadInput(
            f"--model {source}: its card has {len(card.noise_scales)} noise_channels and adapter noise "
            f"{adapter.noise!r}; give both or neither"
        )
    if adapter.noise is not None and issubclass(TYPES[inputs[adapter.noise].type], np.integer):
        raise BadInput(
            f"--model {source}: noise {adapter.noise!r} is {inputs[adapter.noise].type}, and noise is no whole number; "
            f"{PAGE}"
        )
    _check_whole_numbers(TYPES[inputs[adapter.input].type], card, adapter, source)
    _check_shapes(inputs, outputs, card, adapter, source)


def _check_whole_numbers(dtype: type[np.generic], card: Card, adapter: Adapter, source: str) -> None:
    """Refuse values that an input of whole numbers would round, or wrap around, in silence."""
    if adapter.kind == "labels" or not issubclass(dtype, np.integer):
        return
    table, limits = _table(card, adapter), np.iinfo(dtype)
    whole = np.rint(table)
    # What colour / 255 * 255 leaves is no fraction.
    held = np.isclose(whole, table, rtol=0, atol=1e-6) & (limits.min <= whole) & (whole <= limits.max)
    if not held.all():
        raise BadInput(
            f"--model {source}: {adapter.input!r} takes {limits.dtype} and its card's adapter input range "
            f"[{adapter.low:g}, {adapter.high:g}] gives {table[~held][0]:g}; {PAGE}"
        )


def _check_shapes(
    inputs: dict[str, Any], outputs: dict[str, Any], card: Card, adapter: Adapter, source: str
) -> None:
    """Hold the graph's shapes against the card; what the graph leaves open, the trial run shows."""
    side = card.tile + 2 * card.context
    depth = {"labels": 1, "one_hot": len(card.labels), "rgb": 3}[adapter.kind]
    wanted = [(inputs[adapter.input], depth, adapter.layout, side)]
    if adapter.noise is not None:
        wanted.append((inputs[adapter.noise], len(card.noise_scales), "nchw", side))
    wanted.append((outputs[adapter.output], 3, adapter.output_layout, card.tile + 2 * adapter.crop))
    for entry, channels, layout, width in wanted:
        want = [channels, width, width] if layout == "nchw" else [width, width, channels]
        if entry.name == adapter.input and adapter.kind == "labels" and len(entry.shape) == 3:
            want = [width, width]
        have = list(entry.shape)
        sizes = zip(have[1:], want, strict=False)
        if len(have) != 1 + len(want) or any(isinstance(size, int) and size != rule for size, rule in sizes):
            raise BadInput(
                f"--model {source}: {entry.name!r} has shape {have}, its card (tile {card.tile}, context {card.context}, "
                f"{len(card.labels)} labels, crop {adapter.crop}) wants {['n', *want]}; {PAGE}"
            )


def run_adapted(
    session: Any, card: Card, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """Run a foreign network on a batch; see `safron.engine.generator.model.PatchModel`.

    A network of a fixed batch size is called as often as needed, the last call filled up with copies.
    """
    adapter = card.adapter
    assert adapter is not None
    inputs = {entry.name: entry for entry in session.get_inputs()}
    entry = inputs[adapter.input]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else len(labels)
    made = []
    for start in range(0, len(labels), size):
        rows = np.minimum(np.arange(start, start + size), len(labels) - 1)
        feeds = {adapter.input: encode_labels(labels[rows], card, TYPES[entry.type], len(entry.shape))}
        if adapter.noise is not None:
            assert noise is not None
            feeds[adapter.noise] = noise[rows].astype(TYPES[inputs[adapter.noise].type], copy=False)
        (image,) = session.run([adapter.output], feeds)
        made.append(decode_image(np.asarray(image), adapter)[: len(labels) - start])
    return made[0] if len(made) == 1 else np.concatenate(made)


def encode_labels(
    labels: npt.NDArray[np.uint8], card: Card, dtype: type[np.generic], axes: int
) -> npt.NDArray[Any]:
    """Turn labels uint8 [N, y, x] into what the network takes, of `axes` axes."""
    adapter = card.adapter
    assert adapter is not None
    if adapter.kind == "labels":
        values = labels.astype(dtype)
        return values if axes == 3 else values[:, None] if adapter.layout == "nchw" else values[..., None]
    table = _table(card, adapter)
    table = (np.rint(table) if np.issubdtype(dtype, np.integer) else table).astype(dtype)
    if adapter.layout == "nhwc":
        return np.ascontiguousarray(table[labels])
    return np.stack([channel[labels] for channel in table.T], axis=1)


def decode_image(image: npt.NDArray[Any], adapter: Adapter) -> npt.NDArray[np.float32]:
    """Turn the network's picture into RGB 0..255, float32 [N, T, T, 3]."""
    if adapter.output_layout == "nchw":
        image = np.moveaxis(image, 1, -1)
    if adapter.crop:
        image = image[:, adapter.crop : -adapter.crop, adapter.crop : -adapter.crop]
    gain = 255.0 / (adapter.output_high - adapter.output_low)
    scaled = (image.astype(np.float32) - np.float32(adapter.output_low)) * np.float32(gain)
    return np.ascontiguousarray(scaled)


def _table(card: Card, adapter: Adapter) -> npt.NDArray[np.float64]:
    """What each label becomes: float64 [256, channels]."""
    if adapter.kind == "rgb":
        shares = np.array([label.color for label in card.labels]) / 255.0
    else:
        shares = np.eye(len(card.labels))
    table = np.zeros((256, shares.shape[1]))
    table[[label.value for label in card.labels]] = adapter.low + shares * (adapter.high - adapter.low)
    return table


def _fields(raw: Any, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{what} {raw!r} must be an object with {', '.join(sorted(known))}")
    if unknown := sorted(set(raw) - known):
        raise ValueError(f"{what} has an unknown field {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return raw


def _name(fields: dict[str, Any], what: str) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what} name {name!r} must be a name in the graph")
    return name


def _one_of(value: Any, what: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{what} {value!r} must be one of {', '.join(choices)}")
    return str(value)


def _range(fields: dict[str, Any], what: str, default: tuple[float, float] | None) -> tuple[float, float]:
    """Return the two ends of a range; a guess at what is missing would paint wrong colours in silence."""
    value: Any = fields.get("range", None if default is None else list(default))
    numbers = isinstance(value, list) and len(value) == 2 and all(type(end) in (int, float) for end in value)
    if not numbers or not np.isfinite(value).all() or value[0] == value[1]:
        raise ValueError(f"{what} range {value!r} must be two different numbers, as [-1, 1]")
    return float(value[0]), float(value[1])
