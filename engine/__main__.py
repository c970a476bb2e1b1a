"""``safron-render`` and ``python -m safron.engine``: what must be in place before the command is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from safron.io.start import prepare


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command as a process of its own; see `safron.engine.cli.main`.

    Parameters
    ----------
    args
        What follows ``safron-render`` on the command line; None takes it from there.
    """
    prepare("safron-render")
    from safron.engine.cli import main_of_process

    main_of_process(args)


if __name__ == "__main__":
    main()
