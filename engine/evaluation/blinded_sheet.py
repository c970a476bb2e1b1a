"""Can a reader tell real tissue from generated? A page asks, a key is kept apart, and the answers are counted with it.

The page shows pictures of all kinds in random order, at a whole number of screen pixels for each of theirs, and works
without a network. It does not know which picture is of which kind: the key says so, a second file.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.io.apart import check_outputs
from safron.io.errors import BadInput, counted
from safron.io.fields import NotNegative, convert
from safron.io.files import check_output_path, output, parse_text, read_text

from .tile_sets import check_sources, find_tiles

Picture = npt.NDArray[np.uint8]
Shown = Picture | Sequence[Picture]
"""What is judged at a time: a picture uint8 [y, x, 3], RGB, or several side by side."""

SHOWN_PX = 512
"""About how many screen pixels a side a picture is shown at."""

ENDINGS = (".html",)
PAGE = Path(__file__).with_name("blinded_sheet.html")

TITLE = "Real or not?"
TEXT = "Each picture is either a part of a real slide or made by a program."
QUESTIONS = {"Is it real?": ("real", "not real")}
"""Answers to choose from, by question."""


class Key(Struct, frozen=True):
    """What a sheet asks, and what its pictures are in the order in which it shows them.

    Attributes
    ----------
    sheet
        Hash of the pictures; answers carry it, too.
    questions
        Answers to choose from, by question, all of which are asked of each picture.
    kinds
        Kind of each picture.
    sources
        Where each comes from: a file and the row and column of its upper left pixel, as "FILE row 512 column 0".
    """

    sheet: str
    questions: Mapping[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    sources: tuple[str, ...] = ()


class Answer(Struct, frozen=True):
    """Number of the answer that a reader chose, from 0, and after how many seconds."""

    choice: NotNegative
    seconds: float


class Answers(Struct, frozen=True):
    """What a page saves: an answer to each question about each picture in turn; fewer where the reader stopped."""

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
        A source cannot be read or has fewer crops, or a file exists or is a source.
    """
    key = key_path(out)
    check_output_path(out, overwrite=overwrite, endings=ENDINGS)
    check_output_path(key, overwrite=overwrite, name="key ")
    # A command line is checked for OUT alone, since it does not name the key.
    check_outputs([("SOURCE", path) for path in sources.values()], [("", out), ("key ", key)], replaced=False)
    pictures: dict[str, Sequence[Shown]] = {}
    places: dict[str, Sequence[str]] = {}
    check_sources(sources.values())
    for kind, source in sources.items():
        found = find_tiles(source, size=size, most=count, seed=seed, jpeg=jpeg)
        if len(found) < count:
            raise BadInput(
                f"{kind}={source}: has {len(found)} crops of {size} px with tissue, fewer than {count}; lower --count or --size"
            )
        pictures[kind] = list(found)
        places[kind] = [f"{file} row {y} column {x}" for file, y, x in found.places]
    return write_sheet(pictures, out, seed=seed, sources=places, overwrite=overwrite)


def write_sheet(
    pictures: Mapping[str, Sequence[Shown]],
    out: Path,
    *,
    seed: int,
    sources: Mapping[str, Sequence[str]] | None = None,
    title: str = TITLE,
    text: str = TEXT,
    questions: Mapping[str, Sequence[str]] = QUESTIONS,
    overwrite: bool = False,
) -> Key:
    """Write the page `out`, which ends in .html, and its key beside it.

    Parameters
    ----------
    pictures
        What is judged, by kind.
    seed
        Of the order.
    sources
        Where they come from, for the key.
    title, text, questions
        What the page says and asks.

    Returns
    -------
    Key
        What was written to the key.
    """
    each = [(kind, index) for kind, found in pictures.items() for index in range(len(found))]
    order = [each[place] for place in np.random.default_rng(seed).permutation(len(each))]
    shown = [_side_by_side(pictures[kind][index]) for kind, index in order]
    coded = [[cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images] for images in shown]
    sheet = hashlib.sha256(b"".join(part for parts in coded for part in parts)).hexdigest()[:16]
    asked = {question: tuple(answers) for question, answers in questions.items()}
    given = tuple(sources[kind][index] for kind, index in order) if sources else ()
    key = Key(sheet, asked, tuple(kind for kind, _ in order), given)
    largest = max(side for images in shown for image in images for side in image.shape[:2])
    facts = {
        "sheet": sheet,
        "title": title,
        "text": text,
        "questions": asked,
        "zoom": max(1, round(SHOWN_PX / largest)),
        "file": f"{out.stem}-answers.json",
        "pictures": [
            [f"data:image/png;base64,{base64.b64encode(part).decode()}" for part in parts] for parts in coded
        ],
    }
    # "</" would end the script.
    page = read_text(PAGE).replace("/* sheet */ {}", json.dumps(facts).replace("</", "<\\/"))
    with (
        output(out, overwrite=overwrite, endings=ENDINGS) as page_part,
        output(key_path(out), overwrite=overwrite) as key_part,
    ):
        page_part.write_text(page, encoding="utf-8")
        key_part.write_text(json.dumps(msgspec.to_builtins(key), indent=1) + "\n", encoding="utf-8")
    return key


def _side_by_side(shown: Shown) -> list[Picture]:
    return [shown] if isinstance(shown, np.ndarray) else list(shown)


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
        A table: reader, question, kind, answer, how often it was given, of how many, the share with its 95 % interval (Wilson), seconds.
        Of the answers to a question the last is left out, which is the rest.

    Raises
    ------
    BadInput
        A file is damaged, of another sheet, or what a reader saved is there twice.
    """
    known = _read(key, Key)
    head = ["reader", "question", "kind", "answer", "given", "of", "share", "95 % interval", "s each"]
    every: list[_Judged] = []
    rows = [head]
    read: dict[Path, Answers] = {}
    for path in answers:
        found = _read(path, Answers)
        _check_counted_once(path, found, read)
        judged = _judged(path, found, key, known)
        rows += _rows(found.reader or path.stem, judged)
        every += judged
    return rows + (_rows("all", every) if len(answers) > 1 else [])


_Judged = tuple[str, str, tuple[str, ...], Answer]
"""A question, the kind of the picture, the answers to choose from and the one that was given."""


def _judged(path: Path, found: Answers, key: Path, known: Key) -> list[_Judged]:
    """Say what each answer of a reader is about."""
    if found.sheet != known.sheet:
        raise BadInput(f"{path}: answers another sheet than {key} is the key of; give the key of that one")
    asked = [*itertools.product(known.kinds, known.questions.items())]
    if len(found.answers) > len(asked):
        raise BadInput(
            f"{path}: has {counted(len(found.answers), 'answer')}, and the sheet asks for {len(asked)}; give the file as the page saved it"
        )
    judged = []
    for number, ((kind, (question, words)), given) in enumerate(zip(asked, found.answers, strict=False), 1):
        if given.choice >= len(words):
            raise BadInput(
                f"{path}: answer {number} has choice {given.choice}, and {question!r} has {counted(len(words), 'choice')}, from 0 on; "
                "give the file as the page saved it"
            )
        judged.append((question, kind, words, given))
    return judged


def _check_counted_once(path: Path, found: Answers, read: dict[Path, Answers]) -> None:
    """Refuse what the same reader saved before or after, which holds the same answers or the first of them; then note it."""
    for earlier, other in read.items():
        both = min(len(found.answers), len(other.answers))
        if both and found.reader == other.reader and found.answers[:both] == other.answers[:both]:
            raise BadInput(
                f"{path}: has the answers of {earlier}, which would count twice; give one file for each reader"
            )
    read[path] = found


def _read(path: Path, kind: Any) -> Any:
    """Read a JSON file as a `Key` or `Answers`."""
    remedy = "give the .key.json that was written with the page, and what the page saved"
    raw = parse_text(path, json.loads, kind="JSON", remedy=remedy)
    return convert(raw, kind, str(path), then=remedy)


def _rows(reader: str, judged: Sequence[_Judged]) -> list[list[str]]:
    rows = []
    for question, kind in sorted({one[:2] for one in judged}):
        own = [(words, answer) for asked, of, words, answer in judged if (asked, of) == (question, kind)]
        seconds = f"{sum(answer.seconds for _, answer in own) / len(own):.1f}"
        for choice, word in enumerate(own[0][0][:-1]):
            given = sum(answer.choice == choice for _, answer in own)
            low, high = wilson(given, len(own))
            share = [f"{given / len(own):.2f}", f"{low:.2f} to {high:.2f}"]
            rows.append([reader, question, kind, word, str(given), str(len(own)), *share, seconds])
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
