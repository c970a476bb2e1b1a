"""How are pictures put before readers who do not know what each is? A page that asks, in random order, and counts at the end."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]


def write_reader(
    path: Path,
    *,
    title: str,
    text: str,
    questions: Mapping[str, Sequence[str]],
    kinds: Mapping[str, Sequence[Sequence[UInt8]]],
    seed: int = 0,
) -> None:
    """Write the page.

    Parameters
    ----------
    questions
        Answers to choose from, by question; all are asked of each picture.
    kinds
        Pictures by their kind, which is not shown: RGB uint8 [y, x, 3] each, one or more side by side.
    seed
        Of the order.
    """
    pictures = [(kind, shown) for kind, found in kinds.items() for shown in found]
    order = np.random.default_rng(seed).permutation(len(pictures)).tolist()
    sheet = {
        "title": title,
        "text": text,
        "questions": [{"text": asked, "answers": [*answers]} for asked, answers in questions.items()],
        "pictures": [
            {"kind": pictures[place][0], "shown": [_data_url(image) for image in pictures[place][1]]}
            for place in order
        ],
    }
    page = (Path(__file__).parent / "reader.html").read_text(encoding="utf-8")
    path.write_text(page.replace("/* sheet */", json.dumps(sheet)), encoding="utf-8")


def _data_url(image: UInt8) -> str:
    encoded = base64.b64encode(cv2.imencode(".png", image[..., ::-1])[1].tobytes()).decode()
    return f"data:image/png;base64,{encoded}"
