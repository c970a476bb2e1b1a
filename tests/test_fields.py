"""A value that breaks a rule is refused in one line: source, place, value, rule, and what to give instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from msgspec import Meta, Struct
from safron.io.errors import BadInput
from safron.io.fields import RGB, Byte, Count, Positive, convert, fit, words


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    color: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Thing:
    parts: tuple[Part, ...]
    kind: Literal["a", "b"] = "a"
    size: Positive | None = None
    steps: int | Literal["auto"] = "auto"
    file: Path | None = None
    each: dict[str, Count] = field(default_factory=dict)
    mode: Annotated[str, Meta(pattern="^x+$", description="text of x; give xx")] = "x"

    def __post_init__(self) -> None:
        if self.kind == "b" and not self.parts:
            raise ValueError("kind 'b' needs parts")


PART = {"name": "p"}


def refusal(plain: Any, **more: Any) -> str:
    with pytest.raises(BadInput) as error:
        convert(plain, Thing, "f.json", **more)
    assert "\n" not in str(error.value)
    return str(error.value)


REFUSED: list[tuple[Any, str]] = [
    ({}, "parts is missing; it must be a list of objects with name, color"),
    ([], "[] must be an object with parts, kind, size, steps, file, each, mode"),
    ({"parts": [PART, {}]}, "parts[1].name is missing; it must be text"),
    ({"parts": [PART | {"color": [1, 2]}]}, "parts[0].color [1, 2] must be 3 whole numbers, 0 to 255"),
    ({"parts": [PART | {"color": [1, 2, 256]}]}, "parts[0].color[2] 256 must be a whole number, 0 to 255"),
    ({"parts": [PART | {"color": [1, 2, True]}]}, "parts[0].color[2] True must be a whole number, 0 to 255"),
    ({"parts": [PART | {"colour": 1}]}, "unknown name 'parts[0].colour'; did you mean 'parts[0].color'?"),
    ({"parts": [], "zzz": 1}, "unknown name 'zzz'; known are parts, kind, size, steps, file, each, mode"),
    ({"parts": [], "kind": "c"}, "kind 'c' must be 'a' or 'b'"),
    ({"parts": [], "kind": "b"}, "kind 'b' needs parts"),
    ({"parts": [], "size": float("nan")}, "size nan must be a finite number above 0"),
    ({"parts": [], "size": float("inf")}, "size inf must be a finite number above 0"),
    ({"parts": [], "steps": 1.5}, "steps 1.5 must be a whole number or 'auto'"),
    ({"parts": [], "file": 3}, "file 3 must be a path"),
    ({"parts": [], "each": {"k": 0}}, "each[...] {'k': 0} must be an object of whole numbers, at least 1"),
    ({"parts": [], "mode": "y"}, "mode 'y' must be text of x; give xx"),
    ({"parts": "y" * 99}, f"parts '{'y' * 79} must be a list of objects with name, color"),
]


@pytest.mark.parametrize(("plain", "says"), REFUSED, ids=[says[:40] for _, says in REFUSED])
def test_a_broken_rule_is_one_line(plain: Any, says: str) -> None:
    assert refusal(plain) == f"f.json: {says}"


def test_the_line_may_have_an_end() -> None:
    said = refusal({"parts": [], "steps": "x"}, then="see the page")
    assert said == "f.json: steps 'x' must be a whole number or 'auto'; see the page"


def test_lists_without_end_are_refused() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    assert "lists in lists" in refusal({"parts": deep})


def test_what_means_the_same_is_taken() -> None:
    plain = {"parts": [PART | {"color": np.array([1, 2, 3])}], "size": np.float32(0.5), "file": Path("a")}
    assert convert(plain, Thing, "") == Thing((Part("p", (1, 2, 3)),), size=0.5, file=Path("a"))
    assert convert({"parts": [], "zzz": 1}, Thing, "", loose=True) == Thing(())


class Odd:
    """A type of its own."""

    words = "an odd number"

    @staticmethod
    def fits(value: Any) -> bool:
        return isinstance(value, int) and value % 2 == 1


@pytest.mark.parametrize(
    ("value", "kind", "becomes"),
    [
        (np.uint8(7), int, 7),
        (np.True_, bool, True),
        (np.str_("a"), Literal["a", "b"], "a"),
        (np.array([1, 2, 3]), RGB, (1, 2, 3)),
        (Fraction(1, 4), float, 0.25),
        ("a", Path | None, Path("a")),
        (Path("a"), str | Path, Path("a")),
        (3, str | Odd, 3),
        (None, int | None, None),
    ],
)
def test_a_callers_value_is_fitted(value: Any, kind: Any, becomes: Any) -> None:
    fitted = fit(value, kind, "--x")
    assert fitted == becomes
    assert type(fitted) is type(becomes)


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (True, int | None, "--x True: must be a whole number or None"),
        (300, Byte | None, "--x 300: must be a whole number, 0 to 255, or None"),
        ("300", Byte | None, "--x '300': must be a whole number, 0 to 255, or None"),
        (4, str | Odd, "--x 4: must be text or an odd number"),
        (1.0, int | Literal["auto"], "--x 1.0: must be a whole number or 'auto'"),
    ],
)
def test_any_other_is_refused(value: Any, kind: Any, says: str) -> None:
    with pytest.raises(BadInput) as error:
        fit(value, kind, "--x")
    assert str(error.value) == says


def test_words_of_many() -> None:
    assert words(list[RGB]) == "a list of lists of 3 whole numbers, 0 to 255"
