"""Write the tables of options into docs/cli.md, each between the two marks that are there: make options."""

from __future__ import annotations

import re
from pathlib import Path

import click
from safron.engine import augment
from safron.engine import cli as render
from safron.engine import generator_cli as generator
from safron.engine import mask_cli as masks
from safron.engine.evaluation import cli as evaluation
from safron.engine.optimization import cli as optimization
from safron.engine.viewing import cli as viewing
from safron.io.console import options_table
from safron.io.tiles import cli as tiles
from safron.training import cli as training

PROGRAMS: dict[str, click.Command] = {
    "safron-render": render.command,
    "safron-mask": masks.commands,
    "safron-eval": evaluation.commands,
    "safron-optimize": optimization.command,
    "safron-view": viewing.command,
    "safron-generator": generator.commands,
    "safron-tiles": tiles.command,
    "safron-augment": augment.command,
    "safron-train": training.commands,
}
PAGE = Path(__file__).with_name("cli.md")


def with_tables(page: str) -> str:
    """Return the page with the tables of these programs as they are now."""
    for name, program in PROGRAMS.items():
        for command in program.commands.values() if isinstance(program, click.Group) else [program]:
            marked = f"{name} {command.name}" if command is not program else name
            begin, end = f"<!-- options: {marked} -->\n", "<!-- end -->"
            before, rest = page.split(begin)
            page = before + begin + options_table(command) + re.sub(rf"\A.*?{end}", end, rest, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
