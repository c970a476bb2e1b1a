"""Prints pip constraints that hold every requirement of setup.cfg at its lower bound.

    python .ci/lowest.py > lowest.txt
    python .ci/lowest.py torch=2.13.0 > lowest.txt    another version of PyTorch

What those packages require in turn is not held.
"""

import configparser
import re
import sys
from pathlib import Path


def main() -> None:
    """Print a line for each requirement, those of the extras included."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).parent.parent / "setup.cfg")
    fields = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    bounds: dict[tuple[str, str], list[str]] = {}
    for line in "\n".join(fields).splitlines():
        found = re.match(r"([\w.-]+)(?:\[[^\]]*\])?>=([\w.]+)(?:,[^;]*)?(;.*)?$", line.strip())
        if found:
            name, version, marker = found.groups(default="")
            bounds.setdefault((name, marker), []).append(version)
        elif line.strip() and not line.startswith("#"):
            sys.exit(f"setup.cfg: {line.strip()!r} has no lower bound; write name>=version")
    others = dict(word.split("=", 1) for word in sys.argv[1:])
    for (name, marker), versions in sorted(bounds.items()):
        print(f"{name}=={others.get(name) or min(versions, key=key)}{marker}")


def key(version: str) -> list[int]:
    """Where a version stands among others."""
    return [int(part) for part in version.split(".")]


if __name__ == "__main__":
    main()
