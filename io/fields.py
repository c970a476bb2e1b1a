"""How does a plain value, of a file or a caller, become a checked one, and which line says that it cannot?

msgspec checks; the words are ours. A type says all: its annotations hold the bounds (``Annotated[int, Meta(ge=1)]``),
its ``__post_init__`` the rules that concern several fields, by raising ValueError.

>>> convert([1, 256], RGB, "dot.json")
Traceback (most recent call last):
safron.io.errors.BadInput: dot.json: [1, 256] must be 3 whole numbers, 0 to 255
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, fields, is_dataclass
from functools import cache
from numbers import Real
from operator import index
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, ValidationError
from msgspec import convert as _convert

from .errors import BadInput

T = TypeVar("T")

LEAST_MPP, MOST_MPP = 0.001, 10_000.0
"""Micrometres per pixel that a slide can have."""

HUGE = 1.7976931348623157e308
Byte = Annotated[int, Meta(ge=0, le=255)]
Count = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Finite = Annotated[float, Meta(ge=-HUGE, le=HUGE, description="a finite number")]
Positive = Annotated[float, Meta(gt=0, le=HUGE, description="a finite number above 0")]
NotNegativeNumber = Annotated[float, Meta(ge=0, le=HUGE, description="a finite number, at least 0")]
Mpp = Annotated[
    float,
    Meta(
        ge=LEAST_MPP,
        le=MOST_MPP,
        description=f"micrometres per pixel, {LEAST_MPP:g} to {MOST_MPP:g}",
    ),
]

Line = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z",
        max_length=200,
        description="text of one line, without control characters, of at most 200",
    ),
]
"""What is shown on terminals and written into slides."""
Text = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*\Z",
        max_length=10_000,
        description="text without control characters, of at most 10000",
    ),
]
"""The same of any number of lines."""

RGB = tuple[Byte, Byte, Byte]

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("True or False", "True or False"),
    Path: ("a path", "paths"),
    NoneType: ("None", "None"),
}


def convert(
    plain: Any, kind: type[T] | Any, source: str, *, then: str = "", loose: bool = False, strict: bool = True
) -> T:
    """Check a plain value against a type, and give it as that type.

    Parameters
    ----------
    plain
        Dictionaries, lists, texts and numbers, as JSON and YAML have them; NumPy's numbers are taken, too.
    kind
        A dataclass, a `msgspec.Struct`, or any annotation of plain types, `Path` among them.
    source
        Where the value comes from, such as the name of a file; messages begin with it.
    then
        What to do where the value is wrong; messages end with it.
    loose
        Pass over names that a class does not have, where it is no Struct that forbids them.
    strict
        Refuse numbers in quotes.

    Raises
    ------
    BadInput
        A value breaks a rule: one line with the source, the place, the value, and the rule or what to give instead,
        in the words of the annotation's ``Meta(description=...)`` where it has them.
    """
    end = f"; {then}" if then else ""
    try:
        plain = to_plain(plain)
        if not loose:
            _refuse_unknown(plain, kind, "$")
        made: T = _convert(plain, kind, dec_hook=_from_plain, strict=strict, str_keys=True)
        return made
    except RecursionError:
        raise BadInput(f"{source}: holds lists in lists without end{end}") from None
    except ValidationError as error:
        raise BadInput(f"{source}: {_explain(error, plain, kind)}{end}") from None


def fit(value: Any, kind: Any, name: str) -> Any:
    """Give a Python caller's value as the first of a union's types that it can be.

    Parameters
    ----------
    value
        Anything; a value of another type that means the same is taken, such as NumPy's numbers or any
        path-like.
    kind
        An annotation. A class with a static method ``fits`` decides for itself, and its ``words`` are its
        name.
    name
        How messages call it, such as ``--tile``.

    Raises
    ------
    BadInput
        It is none of them.
    """
    plain = to_plain(value)
    for one in members(kind):
        with suppress(ValidationError):
            if not hasattr(one, "fits"):
                return _convert(plain, one, dec_hook=_from_plain)
            if one.fits(value):
                return value
    raise BadInput(f"{name} {shown(value)}: must be {words(kind)}")


class Setting(NamedTuple):
    """What is said of a field that is also an option of a program.

    Attributes
    ----------
    text
        What it does, with its unit.
    metavar
        Stands for the value in help.
    shown
        The default in words; None shows the value itself.
    parse
        Turns the command line's text into the value, or raises ValueError; None goes by the annotation.
    """

    text: str
    metavar: str | None = None
    shown: str | None = None
    parse: Callable[[str], Any] | None = None


def setting(default: Any, *said: Any, **more: Any) -> Any:
    """Declare a field that is also an option, once: its default, and the values of `Setting`."""
    return field(default=default, metadata={"setting": Setting(*said, **more)})


def settings(kind: Any) -> Iterator[tuple[str, Any, Any, Setting]]:
    """Yield name, annotation, default and `Setting` of every field made by `setting`."""
    for item in fields(kind):
        if "setting" in item.metadata:
            yield item.name, hints(kind)[item.name], item.default, item.metadata["setting"]


def attributes(kind: Any) -> str:
    """Make the section of a docstring that lists the settings of a class."""
    lines = ["", "Attributes", "----------"]
    for name, _, default, said in settings(kind):
        usual = f"None: {said.shown}" if default is None and said.shown else f"Default {default}"
        lines += [name, f"    {said.text} {usual}."]
    return "\n    ".join(lines) + "\n"


def words(kind: Any, *, many: bool = False) -> str:
    """Say what an annotation asks for.

    Examples
    --------
    >>> words(Byte | Literal["edge"])
    "a whole number, 0 to 255, or 'edge'"
    >>> words(RGB)
    '3 whole numbers, 0 to 255'
    >>> words(tuple[Finite, Finite])
    '2 values, each a finite number'
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [note for note in args[1:] if isinstance(note, Meta)]
        described = next((note.description for note in bounds if note.description), None)
        if described:  # it tells of one
            return f"values, each {described}" if many else described
        return ", ".join([words(args[0], many=many), *map(_bounds, bounds)])
    if origin in (Union, UnionType, Literal):
        *most, last = (repr(one) if origin is Literal else words(one, many=many) for one in args)
        comma = "," if any("," in text for text in most) else ""
        return f"{', '.join(most)}{comma} or {last}" if most else last
    if origin is tuple and args[-1] is not Ellipsis:
        return f"{'lists of ' if many else ''}{len(args)} {words(args[0], many=True)}"
    if origin in (tuple, list):
        return f"{'lists' if many else 'a list'} of {words(args[0], many=True)}"
    if origin is dict:
        return f"{'objects' if many else 'an object'} of {words(args[1], many=True)}"
    if _is_record(kind):
        return f"{'objects' if many else 'an object'} with {', '.join(hints(kind))}"
    return _WORDS[kind][many] if kind in _WORDS else str(getattr(kind, "words", kind))


def _bounds(meta: Meta) -> str:
    """Say the bounds of a number."""
    if meta.ge is not None and meta.le is not None:
        return f"{meta.ge} to {meta.le}"
    each = (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le), ("less than", meta.lt))
    return " and ".join(f"{text} {bound}" for text, bound in each if bound is not None)


def shown(value: Any) -> str:
    """Show a value in a message: in one line, and not the whole of a long one."""
    return " ".join(repr(value).split())[:80]


@cache
def hints(kind: Any) -> dict[str, Any]:
    """Annotations of a dataclass or Struct, by field."""
    return get_type_hints(kind, include_extras=True)


def to_plain(value: Any) -> Any:
    """Give NumPy's and other libraries' numbers as Python's, and arrays as lists."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {name: to_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    with suppress(TypeError):
        return index(value)
    return float(value) if isinstance(value, Real) else value


def _from_plain(kind: type, value: Any) -> Any:
    """Make what msgspec has no notion of."""
    if kind is Path and isinstance(value, str | os.PathLike):
        return Path(os.fspath(value))
    raise TypeError


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Struct))


def members(kind: Any) -> tuple[Any, ...]:
    """Annotations of which one is enough."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _inner(kind: Any, step: str | int) -> Any:
    """Annotation of a field or an item; of a union the member that has such."""
    for one in members(kind):
        one = get_args(one)[0] if get_origin(one) is Annotated else one
        if isinstance(step, str) and _is_record(one):
            return hints(one).get(step, Any)
        if isinstance(step, int) and get_origin(one) in (tuple, list):
            args = get_args(one)
            return args[0] if len(args) == 1 or args[-1] is Ellipsis else args[min(step, len(args) - 1)]
    return Any


def _refuse_unknown(plain: Any, kind: Any, path: str) -> None:
    """Raise ValidationError at a name that a dataclass does not have; msgspec does that for Structs only."""
    if isinstance(plain, Mapping):
        for record in (one for one in members(kind) if _is_record(one)):
            for name in plain:
                if name not in hints(record):
                    raise ValidationError(f"Object contains unknown field `{name}` - at `{path}`")
        for name, value in plain.items():
            _refuse_unknown(value, _inner(kind, str(name)), f"{path}.{name}")
    elif isinstance(plain, Sequence) and not isinstance(plain, str | bytes):
        for number, value in enumerate(plain):
            _refuse_unknown(value, _inner(kind, number), f"{path}[{number}]")


def _explain(error: ValidationError, plain: Any, kind: Any) -> str:
    """Say in our words what msgspec found; its message has the place, and not the value."""
    message = str(error)
    path = found[1] if (found := re.search(r" - at `\$(.*)`$", message)) else ""
    value = plain
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        step = name or int(number)
        value, kind = value[step], _inner(kind, step)
    place = path.removeprefix(".")
    inside = f"{place}." if place else ""
    if missing := re.match("Object missing required field `(.*?)`", message):
        return f"{inside}{missing[1]} is missing; it must be {_asked(_inner(kind, missing[1]))}"
    if unknown := re.match("Object contains unknown field `(.*?)`", message):
        from difflib import get_close_matches

        names = next(list(hints(one)) for one in members(kind) if _is_record(one))
        near = get_close_matches(unknown[1], names, 1)
        known = f"did you mean {inside + near[0]!r}?" if near else f"known are {', '.join(names)}"
        return f"unknown name {inside + unknown[1]!r}; {known}"
    if isinstance(error.__cause__, ValueError):
        return f"{place}: {error.__cause__}".removeprefix(": ")
    return f"{place} {shown(value)} must be {_asked(kind)}".lstrip()


def _asked(kind: Any) -> str:
    """Say what a file should have; it leaves out what may be None."""
    return words(Union[tuple(one for one in members(kind) if one is not NoneType)])  # noqa: UP007 known only now
