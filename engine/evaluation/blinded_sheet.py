"""Can a reader tell real tissue from generated? A page asks, a key is kept apart, and the answers are counted with it.

The page shows pictures of all kinds in random order, at a whole number of screen pixels for each of theirs, and works
without a network. It does not know which picture is of which kind: the key says so, a second file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.io.errors import BadInput
from safron.io.fields import convert
from safron.io.files import check_output_path, output, parse_text, read_text
from safron.io.html_page import text

from .tile_sets import find_tiles

Picture = npt.NDArray[np.uint8]

SHOWN_PX = 512
"""About how many screen pixels a side a picture is shown at."""

PAGE = Path(__file__).with_name("blinded_sheet.html")


class Key(Struct, frozen=True):
    """What a sheet's pictures are, in the order in which it shows them.

    Attributes
    ----------
    sheet
        Hash of the pictures; answers carry it, too.
    kinds
        Kind of each picture.
    sources
        Where each comes from: a file and the row and column of its upper left pixel.
    """

    sheet: str
    kinds: tuple[str, ...]
    sources: tuple[str, ...] = ()


class Answer(Struct, frozen=True):
    """What a reader said of a picture, and after how many seconds."""

    real: bool
    seconds: float


class Answers(Struct, frozen=True):
    """What a page saves, in the order of its pictures; fewer where the reader stopped."""

    sheet: str
    answers: tuple[Answer, ...]
    reader: str = ""


def key_path(page: Path) -> Path:
    """Name the key of a page."""
    return page.with_suffix(".key.json")


def make_sheet(
    sources: Mapping[str, str],
    out: Path,
    *,
    count: int,
    size: int,
    seed: int,
    jpeg: int | None = None,
    overwrite: bool = False,
) -> Key:
    """Make a sheet of crops with tissue from folders of images, or slides, by the names of their kinds; see `write_sheet`.

    Parameters
    ----------
    sources
        Folder, image or slide of each kind.
    count, size
        Number of crops of each kind, and their pixels a side.
    jpeg
        See `safron.engine.evaluation.tile_sets.TileSet`.

    Raises
    ------
    BadInput
        A source cannot be read or has fewer crops, or a file exists.
    """
    for path in (out, key_path(out)):
        check_output_path(path, overwrite=overwrite)
    pictures: dict[str, Sequence[Picture]] = {}
    places: dict[str, Sequence[str]] = {}
    for kind, source in sources.items():
        found = find_tiles(source, size=size, most=count, seed=seed, jpeg=jpeg)
        if len(found) < count:
            raise BadInput(
                f"{kind}={source}: has {len(found)} crops of {size} px with tissue, fewer than {count}; lower --count or --size"
            )
        pictures[kind] = list(found)
        places[kind] = [f"{file} {y} {x}" for file, y, x in found.places]
    return write_sheet(pictures, out, seed=seed, sources=places, overwrite=overwrite)


def write_sheet(
    pictures: Mapping[str, Sequence[Picture]],
    out: Path,
    *,
    seed: int,
    sources: Mapping[str, Sequence[str]] | None = None,
    overwrite: bool = False,
) -> Key:
    """Write the page `out`, which ends in .html, and its key beside it.

    Parameters
    ----------
    pictures
        uint8 [y, x, 3] each, RGB, by kind.
    seed
        Of the order.
    sources
        Where they come from, for the key.

    Returns
    -------
    Key
        What was written to the key.
    """
    each = [(kind, index) for kind, found in pictures.items() for index in range(len(found))]
    order = [each[place] for place in np.random.default_rng(seed).permutation(len(each))]
    coded = [cv2.imencode(".png", pictures[kind][index][..., ::-1])[1].tobytes() for kind, index in order]
    sheet = hashlib.sha256(b"".join(coded)).hexdigest()[:16]
    given = sources or {}
    key = Key(
        sheet,
        tuple(kind for kind, _ in order),
        tuple(given[kind][index] for kind, index in order) if given else (),
    )
    largest = max(side for found in pictures.values() for image in found for side in image.shape[:2])
    facts = {"sheet": sheet, "zoom": max(1, round(SHOWN_PX / largest)), "file": f"{out.stem}-answers.json"}
    shown = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in coded]
    page = read_text(PAGE).replace("/* facts */ {}", json.dumps(facts)).replace("TITLE", text(out.stem))
    kept = {"sheet": key.sheet, "kinds": key.kinds, "sources": key.sources}
    with (
        output(out, overwrite=overwrite, endings=(".html",)) as page_part,
        output(key_path(out), overwrite=overwrite) as key_part,
    ):
        page_part.write_text(page.replace("/* pictures */ []", json.dumps(shown)), encoding="utf-8")
        key_part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return key


def count_answers(key: Path, answers: Sequence[Path]) -> list[list[str]]:
    """Count what readers said of each kind.

    Parameters
    ----------
    key
        Of the sheet.
    answers
        What its page saved, a file for each reader.

    Returns
    -------
    list[list[str]]
        A table: reader, kind, pictures judged, called real, the share with its 95 % interval (Wilson), seconds a picture.

    Raises
    ------
    BadInput
        A file is damaged, or of another sheet.
    """
    known = _read(key, Key)
    rows = [["reader", "kind", "judged", "called real", "share", "95 % interval", "s a picture"]]
    every: list[tuple[str, Answer]] = []
    for path in answers:
        found = _read(path, Answers)
        if found.sheet != known.sheet or len(found.answers) > len(known.kinds):
            raise BadInput(
                f"{path}: answers another sheet than {key} is the key of; give the key of that one"
            )
        judged = list(zip(known.kinds, found.answers, strict=False))
        rows += _rows(found.reader or path.stem, judged)
        every += judged
    return rows + (_rows("all", every) if len(answers) > 1 else [])


def _read(path: Path, kind: Any) -> Any:
    """Read a JSON file as a `Key` or `Answers`."""
    remedy = "give the .key.json that was written with the page, and what the page saved"
    raw = parse_text(path, json.loads, kind="JSON", remedy=remedy)
    return convert(raw, kind, str(path), then=remedy)


def _rows(reader: str, judged: Sequence[tuple[str, Answer]]) -> list[list[str]]:
    rows = []
    for kind in sorted({name for name, _ in judged}):
        own = [answer for name, answer in judged if name == kind]
        real = sum(answer.real for answer in own)
        low, high = wilson(real, len(own))
        seconds = sum(answer.seconds for answer in own) / len(own)
        share = f"{real / len(own):.2f}"
        rows.append(
            [reader, kind, str(len(own)), str(real), share, f"{low:.2f} to {high:.2f}", f"{seconds:.1f}"]
        )
    return rows


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson, 1927).

    Examples
    --------
    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    z = 1.959964
    share = successes / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)
