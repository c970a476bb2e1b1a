"""Do the files around the code agree: pre-commit, CI, citation, versions?"""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def hooks() -> list[dict[str, Any]]:
    return [
        hook for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]
    ]


@pytest.mark.parametrize("tool", ["ruff", "codespell", "numpydoc", "pytest"])
def test_hooks_use_the_versions_of_the_constraints(tool: str) -> None:
    pins = {pin for hook in hooks() for pin in hook["additional_dependencies"] if pin.startswith(f"{tool}==")}
    assert pins == {line for line in text("constraints.txt").splitlines() if line.startswith(f"{tool}==")}


def test_the_workflow_covers_the_versions_of_python_that_are_announced() -> None:
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    classifiers = re.findall(r":: Python :: (3\.\d+)$", setup()["metadata"]["classifiers"], re.M)
    assert workflow["jobs"]["everything"]["strategy"]["matrix"] == {
        "python": classifiers,
        "compiler": [True, False],
    }


def test_the_citation_names_the_licence_of_the_package() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["license"] == setup()["metadata"]["license"]
    assert {author["family-names"] for author in citation["references"][0]["authors"]} == {
        "Deshpande",
        "Minhas",
        "Graham",
        "Rajpoot",
    }


def test_the_container_gets_every_file_that_its_build_copies() -> None:
    copied = re.search(r"^COPY (constraints\.txt .*) \./$", text("Dockerfile"), re.M)
    assert copied
    kept = set(re.findall(r"^!(.+)$", text(".dockerignore"), re.M))
    assert set(copied[1].split()) <= kept
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("script", sorted((ROOT / "findings").glob("*.sh")), ids=lambda path: path.stem)
def test_findings_are_listed_and_pinned(script: Path) -> None:
    assert f"`{script.name}`" in text("findings/README.md")
    install = re.search(
        r"pip\" install --quiet --disable-pip-version-check (.+)$", script.read_text(encoding="utf-8"), re.M
    )
    assert install
    assert all("==" in requirement for requirement in install[1].split())
