"""Do a graph, and what it returns, keep the contract of docs/generator-contract.md?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.fixed_point import PREDICTION_LIMIT, VALUE_LIMIT
from safron.io.errors import BadInput, Failed

from .card import Card
from .planes import card_specs

TENSORS = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def output_shape(labels: npt.NDArray[np.uint8], card: Card) -> tuple[int, int, int, int]:
    """Return the shape that the contract wants for windows of labels."""
    count, height, width = labels.shape
    return count, height - 2 * card.context, width - 2 * card.context, card.channels


def check_output(image: npt.NDArray[Any], labels: npt.NDArray[np.uint8], card: Card) -> npt.NDArray[Any]:
    """Return `image` if it has the shape and range of the contract, else raise `Failed`."""
    expected = output_shape(labels, card)
    if image.shape != expected:
        raise Failed(
            f"generator {card.name!r} returned {image.shape} for {labels.shape}; the contract wants {expected}"
        )
    low, high = float(image.min()), float(image.max())
    if card.sampler is not None:
        if not (low >= -PREDICTION_LIMIT and high <= PREDICTION_LIMIT):  # a NaN fails both
            raise Failed(
                f"generator {card.name!r} predicted values {low:g}..{high:g}; the contract wants at most "
                f"{PREDICTION_LIMIT} on either side of 0"
            )
        return image
    if not (low >= -VALUE_LIMIT // 2 and high < VALUE_LIMIT):  # a NaN fails both
        raise Failed(
            f"generator {card.name!r} returned values {low:g}..{high:g}; the contract wants RGB in 0..255"
        )
    return image


def check_signature(session: Any, card: Card, source: str) -> None:
    """Raise `BadInput` unless inputs and outputs have the contract's names and types."""
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    wanted = {"labels": "tensor(uint8)"} | {spec.name: TENSORS[spec.dtype] for spec in card_specs(card)}
    for name, kind in wanted.items():
        found = inputs.pop(name, None)
        if found is None or found.type != kind:
            have = "no such input" if found is None else found.type
            raise BadInput(
                f"--model {source}: input {name!r} must be {kind}, found {have}; see docs/generator-contract.md"
            )
    if inputs:
        raise BadInput(
            f"--model {source}: unknown inputs {sorted(inputs)}; its card names {', '.join(map(repr, wanted))}; "
            "see docs/generator-contract.md"
        )
    name = card.output
    if name not in outputs:
        raise BadInput(
            f"--model {source}: output {name!r} is missing, found {sorted(outputs)}; see docs/generator-contract.md"
        )
    if outputs[name].type not in {"tensor(float)", "tensor(float16)"}:
        raise BadInput(
            f"--model {source}: output {name!r} must be tensor(float) or tensor(float16), "
            f"found {outputs[name].type}; see docs/generator-contract.md"
        )
    side = _side(session)
    if isinstance(side, int) and side != card.tile + 2 * card.context:
        raise BadInput(
            f"--model {source}: input 'labels' is {side} px wide, its card says tile {card.tile} + 2 x context {card.context}; "
            "export it again"
        )


def _side(session: Any) -> int | str | None:
    """Width of the label input: an int where fixed, a name where dynamic."""
    shape = next(entry.shape for entry in session.get_inputs() if entry.name == "labels")
    side: int | str | None = shape[-1] if shape else None
    return side
