"""Does a generator draw the same place alike in tiles of two sizes, and beside another patch as alone?

A card may say that tiles can have any multiple of some size. The graph may not keep that promise: an exporter that traces a network
at one size may fix the cells of a pool, an index or a shape at that size, and the graph still runs at others. So two places are drawn
in a large window and in small ones, which lie in two of its corners, and compared where the rest of the large window is far::

    +-------------+-----------+
    |same  |      |           |
    |------+      |           |      A generator that looks far may differ in "same" as much as it does
    |    small    |   rest    |      where the labels of the rest are others.
    +-------------+-----------+
    |             |    small  |
    |             |      +----|
    |    rest     |      |same|
    +-------------+-----------+
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, Failed, one_line

from .onnx_model import OnnxModel
from .planes import Inputs, each

# Grey levels that rounding may change, in float32 and in shorter numbers.
ROUNDING, SHORT_ROUNDING = 1.0, 8.0
# The end of a window may be less like labels than labels are like each other.
FAR = 2.0
# Parts of a small tile's side that are compared: a half, and of that what is furthest from the rest.
SHARES = (2, 4)

Image = npt.NDArray[Any]


def check_sizes(model: OnnxModel, inputs: Inputs, drawn: Image) -> None:
    """Compare two sizes and two batches where card and graph leave them free.

    Parameters
    ----------
    model
        The generator.
    inputs
        Of one or more patches of the tile in use.
    drawn
        [N, T, T, C]: what it made of them.

    Raises
    ------
    BadInput
        It fails at another size or in another batch, or draws otherwise there.
    """
    multiple, tile = model.card.tile_multiple, drawn.shape[1]
    if model.precision == "float16":  # TensorRT would take minutes for another size
        return
    around, made = each(inputs, slice(1)), drawn[:1]
    if not multiple:
        if model.fixed_batch is None:
            _check_batch(model, around, _turned(around), made)
        return
    half = max(multiple, tile // 2 // multiple * multiple)
    small, large = (half, tile) if half < tile else (tile, 2 * tile)
    around = _grown(around, large - tile)
    first, last = (_cut(around, large - small, upper=upper) for upper in (True, False))
    if model.fixed_batch is None:
        corners = _check_batch(model, first, last, made if small == tile else None)
    else:
        corners = _drawn(model, first), _drawn(model, last)
    whole = made if large == tile else _drawn(model, around)
    # Without it a network that halves its input sees the lower corner in another phase.
    aligned = (large - small) % model.card.alignment == 0
    for alone, upper in zip(corners, (True, False) if aligned else (True,), strict=False):
        _check_place(model, around, whole, alone, upper=upper)


def _check_batch(model: OnnxModel, one: Inputs, other: Inputs, alone: Image | None) -> tuple[Image, Image]:
    """Draw two patches in one call; compare the first with what it is alone."""
    pair = {name: np.concatenate([values, other[name]]) for name, values in one.items()}
    export = "export it without operators over the batch, or with a batch size of 1"
    try:
        both = _in_one_call(model, pair)
    except Failed as error:
        if alone is None:
            _drawn(model, one)  # says more if it is the size that it fails at
        raise BadInput(
            f"--model {model.path}: fails for two patches in a call, though its graph leaves their number free "
            f"({one_line(error)}); {export}"
        ) from error
    alone = _drawn(model, one) if alone is None else alone
    if (most := _most(model, both[:1], alone)) > _rounding(model):
        raise BadInput(
            f"--model {model.path}: draws a patch up to {most:.3g} grey levels otherwise beside another in one call than "
            f"alone; {export}"
        )
    return alone, both[1:]


def _check_place(model: OnnxModel, around: Inputs, whole: Image, alone: Image, *, upper: bool) -> None:
    """Compare a corner of the large window with the small one; labels of the rest are changed only if both differ."""
    small, large = alone.shape[1], whole.shape[1]

    def most(one: Image, other: Image, share: int) -> float:
        part = slice(0, small // share) if upper else slice(-(small // share), None)
        return _most(model, one[:, part, part], other[:, part, part])

    differ = {share: most(whole, alone, share) for share in SHARES}
    if max(differ.values()) <= _rounding(model):
        return
    others = {name: values.copy() for name, values in around.items()}
    rest = slice(small - large, None) if upper else slice(0, large - small)
    for name, values in _planes(others).items():
        for beyond in (values[..., rest, :], values[..., rest]):
            beyond[...] = values.min() if name == "labels" else 0
    drawn = _drawn(model, others)
    for share, found in differ.items():
        if found > _rounding(model) + FAR * most(whole, drawn, share):
            raise BadInput(
                f"--model {model.path}: draws the same place up to {found:.3g} grey levels otherwise in tiles of {small} than "
                f"in tiles of {large}, {_remedy(model)}"
            )


def _remedy(model: OnnxModel) -> str:
    card = model.card
    return (
        f"though its card says that any multiple of {card.tile_multiple} will do; export it again with pools and shapes that "
        f'follow the size of the input, or put "tile": {card.tile} into its card'
    )


def _in_one_call(model: OnnxModel, inputs: Inputs) -> Image:
    return model.in_one_call({name: np.ascontiguousarray(values) for name, values in inputs.items()})


def _drawn(model: OnnxModel, inputs: Inputs) -> Image:
    """Draw one patch, and say what its card has to do with it where that fails."""
    try:
        return _in_one_call(model, each(inputs, [0] * (model.fixed_batch or 1)))[:1]
    except Failed as error:
        tile = inputs["labels"].shape[1] - 2 * model.card.context
        raise BadInput(
            f"--model {model.path}: fails in tiles of {tile} ({one_line(error)}), {_remedy(model)}"
        ) from error


def _most(model: OnnxModel, one: Image, other: Image) -> float:
    """Give the largest difference, in grey levels."""
    sampler = model.card.sampler
    levels = 255 / abs(sampler.range[1] - sampler.range[0]) if sampler else 1.0
    return float(np.abs(one.astype(np.float32) - other).max()) * levels


def _rounding(model: OnnxModel) -> float:
    return ROUNDING if model.precision == "float32" else SHORT_ROUNDING


def _planes(inputs: Inputs) -> Inputs:
    """Give the inputs that have a value for each pixel."""
    return {name: values for name, values in inputs.items() if values.ndim > 2}


def _grown(inputs: Inputs, by: int) -> Inputs:
    """Repeat what lies in windows until they are larger."""
    return inputs | {
        name: np.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, by)] * 2, mode="wrap")
        for name, values in _planes(inputs).items()
    }


def _cut(inputs: Inputs, by: int, *, upper: bool) -> Inputs:
    """Cut windows down to their upper left or lower right corner."""
    part = slice(0, -by) if upper else slice(by, None)
    return inputs | {
        name: np.ascontiguousarray(values[..., part, part]) for name, values in _planes(inputs).items()
    }


def _turned(inputs: Inputs) -> Inputs:
    """Turn windows by half a circle, for a patch with other labels."""
    return inputs | {name: values[..., ::-1, ::-1] for name, values in _planes(inputs).items()}
