"""Write the options of safron-render into docs/cli.md, between the two marks that are there: make options."""

from __future__ import annotations

from pathlib import Path

from safron.engine.cli import command
from safron.io.console import options_table

BEGIN, END = "<!-- options:begin -->\n", "<!-- options:end -->"

page = Path(__file__).with_name("cli.md")
before, rest = page.read_text(encoding="utf-8").split(BEGIN)
page.write_text(before + BEGIN + options_table(command) + END + rest.split(END)[1], encoding="utf-8")
