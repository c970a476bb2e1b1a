"""A sheet asks without telling: every crop is there once, the key alone knows its kind, and answers are counted by it."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from cases import run_program
from safron.engine.evaluation.blinded_sheet import count_answers, wilson, write_sheet
from safron.engine.evaluation.cli import main

GREYS = {"real": 150, "old": 120, "new": 90}


@pytest.fixture
def folders(here: Path) -> list[str]:
    """Three folders of two images, each of a colour of its own."""
    for kind, grey in GREYS.items():
        (here / kind).mkdir()
        for number in range(2):
            image = np.full((70, 100, 3), (grey, 60, grey + number), np.uint8)  # blue, green, red
            cv2.imwrite(str(here / kind / f"{number}.png"), image)
    return [f"{kind}={kind}/" for kind in GREYS]


def pictures(page: str) -> list[npt.NDArray[np.uint8]]:
    """All pictures in a page, in its order: uint8 [y, x, 3], BGR."""
    coded = re.findall(r"data:image/png;base64,([^\"]+)", page)
    return [
        np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), 1), np.uint8) for one in coded
    ]


def answer(path: Path, sheet: str, said: list[bool], **more: Any) -> str:
    answers = [{"choice": int(not real), "seconds": 2.0} for real in said]
    path.write_text(json.dumps({"sheet": sheet, "answers": answers} | more))
    return str(path)


def test_the_key_knows_what_the_page_shows(folders: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--count", "2", "--size", "64", "--seed", "3"]
    made = run_program(capfd, main, "sheet", *folders, "s.html", *options)
    assert made.code == 0, made.error
    assert "6 crops; s.key.json says what they are" in made.out
    page, key = Path("s.html").read_text(), json.loads(Path("s.key.json").read_text())
    shown = pictures(page)
    assert [image.shape for image in shown] == [(64, 64, 3)] * 6
    assert [int(image[0, 0, 0]) for image in shown] == [GREYS[kind] for kind in key["kinds"]]
    assert key["kinds"] != sorted(key["kinds"])
    assert sorted(key["kinds"]) == sorted([*GREYS, *GREYS])
    assert all(
        re.fullmatch(rf"{kind}/[01]\.png row 0 column 0", source)
        for kind, source in zip(key["kinds"], key["sources"], strict=True)
    )
    assert not any(f'"{kind}"' in page or f"{kind}/" in page for kind in ("old", "new")), "nothing tells"
    assert "http" not in page
    before = Path("s.html").read_bytes()
    assert run_program(capfd, main, "sheet", *folders, "s.html", *options).code == 2
    assert Path("s.html").read_bytes() == before
    assert run_program(capfd, main, "sheet", *folders, "s.html", *options, "--overwrite").code == 0
    assert Path("s.html").read_bytes() == before, "the same again"


@pytest.mark.parametrize("other", ["same", "link", "hard link"])
def test_a_key_replaces_neither_a_source_nor_unasked_a_file(
    other: str, folders: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The command line does not name the key."""
    kept = Path("s.key.json" if other == "same" else "image.png")
    kept.write_bytes(Path("real/0.png").read_bytes())
    if other != "same":
        (os.symlink if other == "link" else os.link)(kept, "s.key.json")
    words = ["sheet", f"real={kept}", "fake=old/", "s.html", "--count", "1", "--size", "64"]
    for more, says in (
        ([], "key s.key.json: exists already; pass --overwrite"),
        (["--overwrite"], "key s.key.json: is SOURCE itself; give another name"),
    ):
        done = run_program(capfd, main, *words, *more)
        assert (done.code, done.out) == (2, "")
        assert says in done.error
        assert kept.read_bytes() == Path("real/0.png").read_bytes()
        assert not Path("s.html").exists()


def test_answers_are_counted_by_kind(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = {
        "fake": [np.zeros((32, 32, 3), np.uint8)] * 10,
        "real": [np.full((32, 32, 3), 9, np.uint8)] * 10,
    }
    key = write_sheet(images, here / "s.html", seed=0)
    right = [kind == "real" for kind in key.kinds]
    first = answer(here / "a.json", key.sheet, right, reader="Anna")
    second = answer(here / "b.json", key.sheet, [True] * 20)
    done = run_program(capfd, main, "answers", "s.key.json", first, second)
    assert done.code == 0, done.error
    rows = [line.replace("Is it real?", "").split() for line in done.out.splitlines()[1:]]
    assert [row[:6] for row in rows] == [
        ["Anna", "fake", "real", "0", "10", "0.00"],
        ["Anna", "real", "real", "10", "10", "1.00"],
        ["b", "fake", "real", "10", "10", "1.00"],
        ["b", "real", "real", "10", "10", "1.00"],
        ["all", "fake", "real", "10", "20", "0.50"],
        ["all", "real", "real", "20", "20", "1.00"],
    ]
    assert rows[0][6:] == ["0.00", "to", "0.28", "2.0"]
    half = answer(here / "c.json", key.sheet, right[:1])
    stopped = run_program(capfd, main, "answers", "s.key.json", half).out.splitlines()
    assert len(stopped) == 2
    assert key.kinds[0] in stopped[1]
    other = answer(here / "d.json", "0" * 16, right)
    assert "answers another sheet" in run_program(capfd, main, "answers", "s.key.json", other).error
    wild = answer(here / "f.json", key.sheet, right[:2])
    Path(wild).write_text(Path(wild).read_text().replace('"choice": 1', '"choice": 2'))
    said = run_program(capfd, main, "answers", "s.key.json", wild).error
    place = 1 + right.index(False)
    assert (
        f"f.json: answer {place} has choice 2, and 'Is it real?' has 2 choices, from 0 on; give the file"
        in said
    )
    many = answer(here / "g.json", key.sheet, right * 2)
    assert (
        "g.json: has 40 answers, and the sheet asks for 20; give the file"
        in run_program(capfd, main, "answers", "s.key.json", many).error
    )
    Path("e.json").write_text('{"sheet": 3}')
    wrong = run_program(capfd, main, "answers", "s.key.json", "e.json")
    assert (wrong.code, "e.json: sheet 3 must be text" in wrong.error) == (2, True)


def test_what_a_reader_said_counts_once(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Given twice, copied, or saved before the reader went on."""
    images = {kind: [np.full((32, 32, 3), grey, np.uint8)] * 3 for kind, grey in GREYS.items()}
    key = write_sheet(images, here / "s.html", seed=0)
    first = answer(here / "a.json", key.sheet, [True] * 9, reader="Anna")
    copy = answer(here / "b.json", key.sheet, [True] * 9, reader="Anna")
    begun = answer(here / "c.json", key.sheet, [True] * 4, reader="Anna")
    other = answer(here / "d.json", key.sheet, [True] * 9, reader="Ben")
    for again in (first, copy, begun):
        done = run_program(capfd, main, "answers", "s.key.json", first, other, again)
        assert (done.code, done.out) == (2, "")
        assert f"{again}: has the answers of {first}, which would count twice; give one file" in done.error
    assert run_program(capfd, main, "answers", "s.key.json", first, other).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["real/", "s.html"], "give KIND=SOURCE"),
        (["a=real/", "a=old/", "s.html"], "each kind once"),
        (["a=real/", "s.html", "--count", "1", "--size", "64"], "a=real/: is one kind"),
        (["a=real/", "b=old/", "s.png", "--count", "1", "--size", "64"], "must end in .html"),
        (
            ["a=real/", "b=old/", "s.html", "--size", "64"],
            "a=real/: has 2 crops of 64 px with tissue, fewer than 50",
        ),
        (["a=real/", "b=none/", "s.html", "--size", "4096"], "none/: there is no such file or folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    words: list[str], says: str, folders: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    done = run_program(capfd, main, "sheet", *words)
    assert done.code == 2
    assert says in done.error
    assert not [*Path().glob("s.*")]


def test_the_interval_of_a_share() -> None:
    """Wilson's interval for 0 of 10 and 5 of 10, as in Newcombe (1998)."""
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_the_page_asks_and_saves(here: Path, browser: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """In a real browser: keys, back, a reload in between, and the file that is saved."""
    images = {kind: [np.full((32, 40, 3), grey, np.uint8)] * 2 for kind, grey in GREYS.items()}
    key = write_sheet(images, here / "s.html", seed=1)
    page = browser.new_page()
    page.goto((here / "s.html").as_uri())
    page.fill("#reader", "Ben")
    page.locator("#pictures img").click()
    for real in (True, False, False):
        page.keyboard.press("1" if real else "2")
    page.keyboard.press("3")  # no such answer
    page.keyboard.press("b")
    assert "3 of 6" in page.inner_text("#count")
    assert json.loads(page.evaluate("Object.values(localStorage)[0]"))["reader"] == "Ben"
    page.evaluate("localStorage.clear()")  # as Chromium does itself now and then
    page.reload()
    assert "3 of 6" in page.inner_text("#count"), "kept"
    assert page.locator("#pictures img").bounding_box()["width"] == 40 * 13
    for _ in range(4):
        page.click("text=1 real")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "s-answers.json"
    download.value.save_as("said.json")
    said = json.loads(Path("said.json").read_text())
    assert (said["sheet"], said["reader"]) == (key.sheet, "Ben")
    assert [one["choice"] for one in said["answers"]] == [0, 1, 0, 0, 0, 0]
    done = run_program(capfd, main, "answers", "s.key.json", "said.json")
    assert (done.code, done.out.count("Ben")) == (0, 3)
    page.evaluate("localStorage.clear(); history.replaceState({...history.state, sheet: 'other'}, '')")
    page.reload()
    assert "1 of 6" in page.inner_text("#count"), "answers to another sheet, which had the page's name"


def test_several_questions_about_pictures_side_by_side(here: Path, browser: Any) -> None:
    pair = [np.full((20, 20, 3), 200, np.uint8), np.full((20, 30, 3), 50, np.uint8)]
    asked = {"Do they match?": ("yes", "partly", "no"), "Is it </script>sharp?": ("yes", "no")}
    key = write_sheet(
        {"a": [pair], "b": [pair[::-1]]}, here / "s.html", seed=0, title="Both", questions=asked
    )
    page = browser.new_page()
    page.goto((here / "s.html").as_uri())
    assert page.inner_text("h1") == "Both"
    assert page.locator("#pictures img").count() == 2
    page.keyboard.press("2")
    assert "Is it </script>sharp?" in page.inner_text("#question")
    for number in "113":
        page.keyboard.press(number)
    assert page.locator("#done").is_hidden()
    page.keyboard.press("2")
    assert page.locator("#done").is_visible()
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as("said.json")
    rows = [row[1:6] for row in count_answers(here / "s.key.json", [here / "said.json"])[1:]]
    first, second = key.kinds
    # Of the first: partly, yes. Of the second: yes, and no to the other question.
    assert ["Do they match?", first, "partly", "1", "1"] in rows
    assert ["Do they match?", second, "yes", "1", "1"] in rows
    assert ["Is it </script>sharp?", first, "yes", "1", "1"] in rows
    assert ["Is it </script>sharp?", second, "yes", "0", "1"] in rows
    assert len(rows) == 6
