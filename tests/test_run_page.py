"""The page of a training run says in words and curves what its log holds, and how it compares with another."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cases import exit_code
from safron.training.cli import main
from safron.training.held_out import measure_sheets, windows_of
from safron.training.run_page import SHEETS, verdict

pytestmark = pytest.mark.usefixtures("here")


run = partial(exit_code, main)


def make(name: str, factor: float, sheets: int = 0) -> None:
    folder = Path(name)
    folder.mkdir()
    rows = [
        {"step": step, "minutes": step / 60, "pixel": factor / step, "adversarial": 0.5 - step / 1000}
        for step in range(50, 2050, 50)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "checkpoint.json").write_text(json.dumps({"seed": 7, "name": "<b>"}))
    for number in range(sheets):
        cv2.imwrite(str(folder / f"sheet-{number * 500:06d}.png"), np.full((8, 9, 3), number, np.uint8))


def test_the_page_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    make("one", 2.0, sheets=9)
    make("two", 1.0)
    assert run("page", "one", "p.html", "--before", "two") == 0
    page = Path("p.html").read_text()
    assert "pixel" in page
    assert "100 % higher than" in page
    assert "nothing" not in page
    assert len(re.findall("data:image/png", page)) == SHEETS
    assert "step 0<" in page
    assert "step 4000<" in page
    assert "http" not in page
    assert "<b>&quot;" not in page
    assert "&lt;b&gt;" in page
    lines = re.findall(r"<polyline points='([^']*)'", page)
    assert [len(line.split()) for line in lines] == [40, 40, 40, 40]
    heights = [float(point.split(",")[1]) for point in lines[0].split()]
    assert heights == sorted(heights)  # y grows downwards, and the loss falls
    assert run("page", "one", "p.html") == 2
    assert "exists already" in capsys.readouterr().err


def test_held_out_windows_are_measured() -> None:
    rng = np.random.default_rng(0)
    real = np.repeat(rng.integers(60, 200, (64, 64, 1)).astype(np.uint8), 3, axis=2)
    for name, made in (("same", real), ("blurred", cv2.GaussianBlur(real, (0, 0), 2)), ("darker", real - 40)):
        make(name, 1.0)
        rows = [np.zeros_like(real), real, made, made]
        column = np.concatenate([np.pad(row, ((0, 4), (0, 0), (0, 0)), constant_values=255) for row in rows])[
            :-4
        ]
        gap = np.full((len(column), 4, 3), 255, np.uint8)
        cv2.imwrite(f"{name}/sheet-002000.png", np.concatenate([column, gap, column], axis=1))
    same, blurred, darker = (measure_sheets(Path(name))[0] for name in ("same", "blurred", "darker"))
    assert same == {"step": 2000, "held-out colour": 0, "held-out texture": 0}
    assert blurred["held-out texture"] > 1
    assert blurred["held-out colour"] < 1
    assert 12 < darker["held-out colour"] < 18  # 40 grey levels are about 15 of lightness
    assert darker["held-out texture"] < 0.2
    assert run("page", "blurred", "p.html", "--before", "darker") == 0
    page = Path("p.html").read_text()
    assert re.search(r"held-out colour.*\n<p><b>at step 2000: [\d.]+, \d+ % better than", page)
    assert re.search(r"held-out texture.*\n<p><b>at step 2000: [\d.]+, \d+ % worse than", page)
    assert windows_of(np.zeros((268, 100, 3), np.uint8)) == []


def test_runs_are_compared_where_both_have_been() -> None:
    short = [{"step": 10.0, "pixel": 0.4}, {"step": 20.0, "pixel": 0.2}]
    long = [*short, {"step": 30.0, "pixel": 0.01}]
    assert verdict(long, short, "pixel") == "at step 20: 0.2, as high as 0.2 before"
    assert verdict(long, short, "none") == "at step 20: nothing to compare"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no log.jsonl"),
        ("", "no line with a step"),
        ("{", "cannot be read as lines of JSON"),
        ("[1]", "lines of JSON"),
    ],
)
def test_folders_without_a_run_are_refused(
    content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x").mkdir()
    if content is not None:
        Path("x/log.jsonl").write_text(content)
    assert run("page", "x", "p.html") == 2
    assert message in capsys.readouterr().err
    assert not Path("p.html").exists()


def test_a_run_of_one_line_has_a_dot_in_the_middle() -> None:
    make("short", 1.0)
    log = Path("short/log.jsonl")
    log.write_text(log.read_text().splitlines()[0] + "\n")
    make("long", 1.0)
    assert run("page", "short", "alone.html") == 0
    page = Path("alone.html").read_text()
    assert re.findall(r"<path d='M([\d.,]+)h0'", page) == ["310.0,85.0"] * 2
    assert page.count("50 steps<") == 2  # once below each curve, not at both ends
    assert run("page", "long", "two.html", "--before", "short") == 0
    beside = Path("two.html").read_text()
    assert len(re.findall("<path", beside)) == 2  # of the short run alone


def test_the_page_fits_a_phone(browser: Any) -> None:
    make("wide", 1.0)
    cv2.imwrite("wide/sheet-000500.png", np.full((80, 900, 3), 9, np.uint8))
    assert run("page", "wide", "p.html") == 0
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(Path("p.html").absolute().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()
