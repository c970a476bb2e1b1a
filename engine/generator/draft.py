"""Which card fits a graph, as far as the graph itself tells, and what is wrong with a card, all at once?

A graph names its inputs and outputs, their types and sizes. It is called with a few masks, which shows how much smaller the picture is than
the mask and in which range its values lie. What no graph tells (names of the labels, pixel size, licence) is left for a person to fill in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safron.io.errors import BadInput, counted, one_line
from safron.io.files import what_is_there

from .adapter import TYPES
from .card import parse_card
from .onnx_file import OnnxFile

REQUIRED = ("name", "tile", "context", "labels")
_PLAIN: dict[str, Any] = {
    "name": "plain", "tile": 16, "context": 0, "labels": [{"value": 0, "name": "any", "color": [0, 0, 0]}]
}  # fmt: skip
_TOGETHER = (("labels", "outside"), ("noise_channels", "noise_scales"))
_OTHERS = ((0, 0, 255), (255, 0, 0), (0, 255, 0), (230, 159, 0), (86, 180, 233), (204, 121, 167))
_SIDES = (256, 192, 128, 512)
LEFT_OPEN = {
    "labels": "names and colours of the labels, and fill for background",
    "noise_scales": "of each channel of noise, if it has any; 1 where nothing is given",
    "alignment": "2 to the number of times that it halves its input",
    "mpp": "micrometres per pixel of what it draws",
    "licence": "licence of its weights",
    "trained_on": "data that it was trained on",
}
"""Fields that no graph tells."""


@dataclass
class Draft:
    """A card as far as the graph tells.

    Attributes
    ----------
    card
        The card's JSON.
    measured, guessed
        What was found by calling the graph, and what may be wrong.
    """

    card: dict[str, Any]
    measured: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)


def card_faults(text: str, source: str) -> list[str]:
    """Find everything that is wrong with a card; a line for each field.

    Parameters
    ----------
    text
        The card's JSON.
    source
        Where it comes from, for messages.

    Returns
    -------
    list[str]
        Lines, none where the card can be used.
    """
    try:
        parse_card(text, source=source)
    except BadInput as first:
        try:
            card = json.loads(text)
        except (ValueError, RecursionError):
            return [str(first)]
        if not isinstance(card, dict):
            return [str(first)]
        groups = [
            *_TOGETHER,
            *((name,) for name in {*REQUIRED, *card} - {name for pair in _TOGETHER for name in pair}),
        ]
        faults = [fault for group in groups if (fault := _fault(card, group, source))]
        return sorted(faults) or [str(first)]
    return []


def _fault(card: Mapping[str, Any], names: tuple[str, ...], source: str) -> str | None:
    """What is wrong with some fields in a card that is right otherwise."""
    tried = {name: value for name, value in _PLAIN.items() if name not in names}
    tried |= {name: card[name] for name in names if name in card}
    try:
        parse_card(json.dumps(tried), source=source)
    except BadInput as error:
        return str(error)
    return None


def has_card(path: Path) -> bool:
    """Whether an ONNX file has a card in its metadata."""
    try:
        return "safron" in OnnxFile.parse(path.read_bytes()).metadata
    except (OSError, ValueError):  # what is wrong with it is said elsewhere
        return False


def draft_card(path: Path) -> Draft:
    """Make a card from a graph.

    Parameters
    ----------
    path
        An ONNX file.

    Raises
    ------
    BadInput
        It cannot be loaded, has no input or output that could be labels or a picture, or cannot be called.
    """
    import onnxruntime

    if not path.is_file():
        raise BadInput(f"{path}: {what_is_there(path)}; give an ONNX file")
    try:
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        # Threads that spin while they wait slow down everything on a machine with other work.
        quiet.add_session_config_entry("session.intra_op.allow_spinning", "0")
        off = OnnxFile.parse(path.read_bytes()).disabled_optimizers
        session = onnxruntime.InferenceSession(
            path, quiet, providers=["CPUExecutionProvider"], disabled_optimizers=off
        )
    except Exception as error:  # of ONNX Runtime, which has many
        raise BadInput(f"{path}: ONNX Runtime cannot load it ({one_line(error)}); export it again") from error
    images = [one for one in session.get_inputs() if one.type in TYPES and len(one.shape) in (3, 4)]
    pictures = [one for one in session.get_outputs() if one.type in TYPES and len(one.shape) == 4]
    if not images or not pictures:
        raise BadInput(
            f"{path}: has inputs {_named(session.get_inputs())} and outputs {_named(session.get_outputs())}; a generator takes "
            "[n, y, x] or [n, channels, y, x] and gives a picture of 4 axes"
        )
    taken, made = next((one for one in images if one.name == "labels"), images[0]), pictures[0]
    further = [one.name for one in session.get_inputs() if one.name != taken.name]
    noise = next(
        (one for one in session.get_inputs() if one.name != taken.name and len(one.shape) == 4), None
    )
    draft = Draft({"name": path.stem, "version": "1"})
    layout, channels = _layout(taken.shape, draft)
    outcome = _call(session, taken, layout, channels, noise, made)
    if isinstance(outcome, str):
        raise BadInput(
            f"{path}: cannot be called with {layout} of {counted(channels, 'channel')}: {outcome}; write its card by hand"
        )
    side, picture = outcome
    _describe(draft, taken, made, layout, channels, side, picture, noise)
    if rest := [name for name in further if noise is None or name != noise.name]:
        draft.guessed.append(
            f"inputs {', '.join(rest)} are not known; docs/generator-contract.md lists those that are"
        )
    return draft


def _layout(shape: list[Any], draft: Draft) -> tuple[str, int]:
    """Order of axes, and number of channels: 0 for an input of three axes."""
    if len(shape) == 3:
        return "nchw", 0
    first, last = (size if isinstance(size, int) else 1 << 30 for size in (shape[1], shape[3]))
    if min(first, last) < 1 << 30:
        return ("nchw", first) if first <= last else ("nhwc", last)
    draft.guessed.append("channels first, one of them: the graph leaves its channels open")
    return "nchw", 1


def _call(
    session: Any, taken: Any, layout: str, channels: int, noise: Any, made: Any
) -> tuple[int, Any] | str:
    """Side of a window that the graph takes, and what it makes of labels at random; else what it says."""
    fixed = [size for size in taken.shape[1:] if isinstance(size, int) and size != channels]
    said = "no window fits"
    rng = np.random.default_rng(0)
    for side in fixed[:1] or _SIDES:
        labels = np.repeat(
            np.repeat(rng.integers(0, max(2, channels), (1, side // 8 + 1, side // 8 + 1)), 8, 1), 8, 2
        )
        labels = labels[:, :side, :side]
        feeds = {taken.name: _encoded(labels, layout, channels, taken.type).astype(TYPES[taken.type])}
        if noise is not None:
            depth = noise.shape[1] if isinstance(noise.shape[1], int) else 1
            feeds[noise.name] = rng.standard_normal((1, depth, side, side)).astype(TYPES[noise.type])
        try:
            (picture,) = session.run([made.name], feeds)
        except Exception as error:  # of ONNX Runtime, which has many
            said = one_line(error)
            continue
        return side, picture
    return said


def _colours(kind: str) -> tuple[int, int]:
    """Values of black and of full colour that are guessed for an input of a type."""
    return (-1, 1) if np.issubdtype(TYPES[kind], np.floating) else (0, 255)


def _encoded(labels: Any, layout: str, channels: int, kind: str) -> Any:
    """Labels as the card that is drafted will have them."""
    if channels == 0:
        return labels
    deep = labels[:, None] == np.arange(channels)[None, :, None, None] if channels > 1 else labels[:, None]
    if channels == 3:
        deep = np.where(deep, *_colours(kind)[::-1])
    return deep if layout == "nchw" else deep.transpose(0, 2, 3, 1)


def _describe(
    draft: Draft, taken: Any, made: Any, layout: str, channels: int, side: int, picture: Any, noise: Any
) -> None:
    """Put what was found into the card."""
    last = picture.shape[-1] == 3
    width = picture.shape[1] if last else picture.shape[2]
    if picture.shape[3 if last else 1] != 3 or width > side or (side - width) % 2:
        draft.guessed.append(
            f"output {made.name!r} has shape {list(picture.shape)}, and a picture has three channels and at most the size of its window"
        )
    context = (side - width) // 2
    low, high = float(picture.min()), float(picture.max())
    span = [-1, 1] if low < -0.05 and high <= 1.5 else [0, 1] if high <= 1.5 else [0, 255]
    fixed = any(isinstance(size, int) and size != channels for size in taken.shape[1:])
    count = channels if channels > 3 else 3
    draft.measured += [
        f"a window of {side} pixels gives {width}: tile {width}, context {context}",
        f"values from {low:.3g} to {high:.3g}: range {span}",
    ]
    follows = (
        taken.name == "labels"
        and taken.type == "tensor(uint8)"
        and channels == 0
        and last
        and made.name == "image"
    )
    draft.card |= {
        "tile": width if fixed else {"multiple_of": 16, "default": width - width % 16},
        "context": context,
        "labels": [
            {"value": value, "name": f"label {value}", "color": list(_OTHERS[value % len(_OTHERS)])}
            for value in range(count)
        ],
    }
    if not fixed:
        draft.guessed.append(
            "tile: multiples of 16 were taken for granted, since the graph leaves its sides open"
        )
    if noise is not None:
        draft.card["noise_channels"] = noise.shape[1] if isinstance(noise.shape[1], int) else 1
    if not follows:
        kind = "labels" if channels in (0, 1) else "rgb" if channels == 3 else "one_hot"
        if channels == 3:
            draft.guessed.append(
                "input of 3 channels: colours of the labels (rgb); it may be one_hot of three labels"
            )
        entry: dict[str, Any] = {"name": taken.name, "kind": kind, "layout": layout}
        if kind == "rgb":
            entry["range"] = [*_colours(taken.type)]
            draft.guessed.append(f"input range {entry['range']}")
        output = {"name": made.name, "layout": "nhwc" if last else "nchw", "range": span}
        draft.card["adapter"] = {"input": entry, "output": output} | (
            {"noise": noise.name} if noise is not None else {}
        )
    draft.card |= {"mpp": None, "licence": "unknown", "trained_on": "unknown"}


def _named(entries: Any) -> str:
    return ", ".join(f"{one.name} {one.type} {one.shape}" for one in entries) or "none"
