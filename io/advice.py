"""Which options may a message name in the program that prints it?

Messages are written where a fault is found, which several programs may come to. An option that the command at hand does not have says
whose it is, and one that only names what was given is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection

OWNERS = {
    "safron-mask import": {"--binarize", "--indices", "--map", "--mpp", "--palette"},
    "safron-mask from-geojson": {"--like", "--downsample"},
    "safron-mask to-geojson": {"--background"},
    "safron-mask from-polygons": {"--classes"},
    "safron-train": {"--config", "--data-set", "--preset", "--slide-of", "--start"},
}
"""Where an option belongs that neither the command at hand nor safron-render has."""
OTHERS = "safron-render"
FOREIGN = {
    "--help",
    "--constraint",
    "--gres",
    "--lifetime",
    "--lifetime-stagger",
    "--memory-limit",
    "--nthreads",
    "--scheduler-file",
}
"""Options of all programs, and of other projects'."""

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_GIVEN = re.compile(rf"({_OPTION.pattern}) (?=[^;]*: )")
_PROGRAM = re.compile(r"\b(?:safron-[a-z]+|dask scheduler)\b")
_FOR_CALLERS = re.compile(r" \(\w+=True\)|,? or None(?![\w-])")


def owner_of(name: str) -> str:
    """Name the command that an option belongs to."""
    return next((command for command, names in OWNERS.items() if name in names), OTHERS)


def typed(text: str) -> str:
    """Leave out what a message says to callers of a function alone.

    Examples
    --------
    >>> typed("s.svs: exists already; pass --overwrite (overwrite=True) to replace it")
    's.svs: exists already; pass --overwrite to replace it'
    >>> typed("--workers 0: must be a whole number, at least 1, or None")
    '--workers 0: must be a whole number, at least 1'
    """
    return _FOR_CALLERS.sub("", text)


def for_command(text: str, command: str, options: Collection[str], siblings: Collection[str] = ()) -> str:
    """Say of options in a message whose they are, where a command has others.

    Parameters
    ----------
    text
        One line.
    command
        The command at hand, such as "safron-mask info".
    options
        Its options.
    siblings
        Options of other commands of the same program, whose messages they are.

    Examples
    --------
    >>> for_command("--model g.onnx: too new; see --device, --batch", "safron-generator check", {"--device"})
    'g.onnx: too new; see --device, safron-render --batch'
    >>> for_command("no size; safron-mask import --mpp says it", "safron-mask info", ())
    'no size; safron-mask import --mpp says it'
    """

    def is_known(name: str) -> bool:
        owner = owner_of(name)
        return (
            name in options or name in FOREIGN or owner == command or (name in siblings and owner == OTHERS)
        )

    given = _GIVEN.match(text)
    if given is not None and not is_known(given[1]):
        text = text[given.end() :]

    def whose(found: re.Match[str]) -> str:
        name, before = found[0], re.split(r"[;:(]", text[: found.start()])[-1]
        return name if _PROGRAM.search(before) or is_known(name) else f"{owner_of(name)} {name}"

    return _OPTION.sub(whose, text)
