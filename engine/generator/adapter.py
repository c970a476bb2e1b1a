"""How does a network that knows nothing of the generator contract run under it?

A card with an ``adapter`` says how the network takes its input and gives its picture. The engine goes on
seeing labels in and RGB 0..255 out; the translation is NumPy around the ONNX session::

    labels uint8 [N, y, x]  ->  numbers, one-hot or colours, scaled, channels first or last  ->  network
    RGB 0..255 [N, T, T, 3] <-  cropped, rescaled, channels last                             <-  network
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, counted

from .card import PAGE, Adapter, Card

TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def check_adapter(session: Any, card: Card, source: str) -> None:
    """Raise `BadInput` unless the network takes and gives what the card's adapter says."""
    adapter = card.adapter
    assert adapter is not None
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    wanted = [("input", adapter.input.name, inputs), ("output", adapter.output.name, outputs)]
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
    if card.edges:
        raise BadInput(f"--model {source}: its card has edges and an adapter, which takes none; {PAGE}")
    if card.initial:
        raise BadInput(f"--model {source}: its card has initial and an adapter, which takes none; {PAGE}")
    known = {adapter.input.name, adapter.noise}
    if spare := sorted(set(inputs) - known):
        raise BadInput(f"--model {source}: inputs {spare} are not in its card's adapter; {PAGE}")
    if (adapter.noise is None) != (not card.noise_scales):
        raise BadInput(
            f"--model {source}: its card has {len(card.noise_scales)} noise_channels and adapter noise "
            f"{adapter.noise!r}; give both or neither"
        )
    if adapter.noise is not None and issubclass(TYPES[inputs[adapter.noise].type], np.integer):
        raise BadInput(
            f"--model {source}: noise {adapter.noise!r} is {inputs[adapter.noise].type}, and noise is not a whole number; "
            f"{PAGE}"
        )
    _check_whole_numbers(TYPES[inputs[adapter.input.name].type], card, adapter, source)
    _check_shapes(inputs, outputs, card, adapter, source)


def _check_whole_numbers(dtype: type[np.generic], card: Card, adapter: Adapter, source: str) -> None:
    """Refuse values that an input of whole numbers would round, or wrap around, in silence."""
    if adapter.input.kind == "labels" or not issubclass(dtype, np.integer):
        return
    table, limits = _table(card, adapter), np.iinfo(dtype)
    whole = np.rint(table)
    # What colour / 255 * 255 leaves is no fraction.
    held = np.isclose(whole, table, rtol=0, atol=1e-6) & (limits.min <= whole) & (whole <= limits.max)
    if not held.all():
        low, high = adapter.input.ends
        raise BadInput(
            f"--model {source}: {adapter.input.name!r} takes {limits.dtype} and its card's adapter input range "
            f"[{low:g}, {high:g}] gives {table[~held][0]:g}; {PAGE}"
        )


def _check_shapes(
    inputs: dict[str, Any], outputs: dict[str, Any], card: Card, adapter: Adapter, source: str
) -> None:
    """Hold the graph's shapes against the card; what the graph leaves open, the trial run shows."""
    side = card.tile + 2 * card.context
    depth = {"labels": 1, "one_hot": len(card.labels), "rgb": 3}[adapter.input.kind]
    wanted = [(inputs[adapter.input.name], depth, adapter.input.layout, side)]
    if adapter.noise is not None:
        wanted.append((inputs[adapter.noise], len(card.noise_scales), "nchw", side))
    wanted.append(
        (outputs[adapter.output.name], 3, adapter.output.layout, card.tile + 2 * adapter.output.crop)
    )
    for entry, channels, layout, width in wanted:
        want = [channels, width, width] if layout == "nchw" else [width, width, channels]
        if entry.name == adapter.input.name and adapter.input.kind == "labels" and len(entry.shape) == 3:
            want = [width, width]
        have = list(entry.shape)
        sizes = zip(have[1:], want, strict=False)
        if len(have) != 1 + len(want) or any(isinstance(size, int) and size != rule for size, rule in sizes):
            raise BadInput(
                f"--model {source}: {entry.name!r} has shape {have}, its card (tile {card.tile}, context {card.context}, "
                f"{counted(len(card.labels), 'label')}, crop {adapter.output.crop}) wants {['n', *want]}; {PAGE}"
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
    entry = inputs[adapter.input.name]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else len(labels)
    made = []
    for start in range(0, len(labels), size):
        rows = np.minimum(np.arange(start, start + size), len(labels) - 1)
        feeds = {adapter.input.name: encode_labels(labels[rows], card, TYPES[entry.type], len(entry.shape))}
        if adapter.noise is not None:
            assert noise is not None
            feeds[adapter.noise] = noise[rows].astype(TYPES[inputs[adapter.noise].type], copy=False)
        (image,) = session.run([adapter.output.name], feeds)
        made.append(decode_image(np.asarray(image), adapter)[: len(labels) - start])
    return made[0] if len(made) == 1 else np.concatenate(made)


def encode_labels(
    labels: npt.NDArray[np.uint8], card: Card, dtype: type[np.generic], axes: int
) -> npt.NDArray[Any]:
    """Turn labels uint8 [N, y, x] into what the network takes, of `axes` axes."""
    adapter = card.adapter
    assert adapter is not None
    if adapter.input.kind == "labels":
        values = labels.astype(dtype)
        return (
            values if axes == 3 else values[:, None] if adapter.input.layout == "nchw" else values[..., None]
        )
    table = _table(card, adapter)
    table = (np.rint(table) if np.issubdtype(dtype, np.integer) else table).astype(dtype)
    if adapter.input.layout == "nhwc":
        return np.ascontiguousarray(table[labels])
    return np.stack([channel[labels] for channel in table.T], axis=1)


def decode_image(image: npt.NDArray[Any], adapter: Adapter) -> npt.NDArray[np.float32]:
    """Turn the network's picture into RGB 0..255, float32 [N, T, T, 3]."""
    if adapter.output.layout == "nchw":
        image = np.moveaxis(image, 1, -1)
    if crop := adapter.output.crop:
        image = image[:, crop:-crop, crop:-crop]
    black, white = adapter.output.range
    scaled = (image.astype(np.float32) - np.float32(black)) * np.float32(255.0 / (white - black))
    return np.ascontiguousarray(scaled)


def _table(card: Card, adapter: Adapter) -> npt.NDArray[np.float64]:
    """What each label becomes: float64 [256, channels]."""
    if adapter.input.kind == "rgb":
        shares = np.array([label.color for label in card.labels]) / 255.0
    else:
        shares = np.eye(len(card.labels))
    table, (low, high) = np.zeros((256, shares.shape[1])), adapter.input.ends
    table[[label.value for label in card.labels]] = low + shares * (high - low)
    return table
