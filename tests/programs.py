"""The commands of all programs, for tests of what they have in common."""

from __future__ import annotations

from collections.abc import Iterator

import click
from safron.engine import augment
from safron.engine import cli as render
from safron.engine import generator_cli as generator
from safron.engine import mask_cli as mask
from safron.engine.evaluation import cli as evaluation
from safron.engine.optimization import cli as optimization
from safron.engine.viewing import cli as viewing
from safron.io.tiles import cli as tiles


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for below, one in command.commands.items():
        yield from commands(one, f"{name} {below}")


PROGRAMS: dict[str, click.Command] = {
    "safron-render": render.command,
    "safron-mask": mask.commands,
    "safron-eval": evaluation.commands,
    "safron-optimize": optimization.command,
    "safron-view": viewing.command,
    "safron-generator": generator.commands,
    "safron-tiles": tiles.command,
    "safron-augment": augment.command,
}
