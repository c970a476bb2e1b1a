"""Which pages does the site have beyond those of docs/? Called by mkdocs.

README, changelog and benchmark log stay where readers of the repository look for them, and the API reference has a page for
each package, written from what the package offers.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "log.md": "benchmarks/LOG.md",
    "license.txt": "LICENSE",
    "notice.txt": "NOTICE",
}
PACKAGES = ("engine", "io", "training")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere and the pages of the API reference."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = _relinked(text, Path(source).parent) if page.endswith(".md") else text
        files.append(File.generated(config, page, content=content))
    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=reference(f"safron.{package}")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to their pages."""
    return _relinked(markdown, Path("docs")) if page.file.src_uri not in ELSEWHERE else markdown


def _relinked(text: str, folder: Path) -> str:
    """Rewrite relative links of a page in `folder` of the repository to pages of the site."""
    pages = {source: page for page, source in ELSEWHERE.items()}

    def lead(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        path = (ROOT / folder / target).resolve()
        if target and "://" not in target and path.is_relative_to(ROOT) and path.exists():
            name = path.relative_to(ROOT).as_posix()
            if name in pages:
                target = pages[name]
            elif name.startswith("docs/"):
                target = name.removeprefix("docs/")
        return f"]({target}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", lead, text)


def reference(package: str) -> str:
    """A page that shows every public name of a package, or of its modules where it offers none itself."""
    module = importlib.import_module(package)
    lines = [f"# {package}", "", (module.__doc__ or "").strip(), ""]
    for name in _public(module):
        lines += [f"::: {name}", ""]
    return "\n".join(lines)


def _public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    if names:
        return [f"{module.__name__}.{name}" for name in names]
    found = pkgutil.walk_packages(module.__path__, f"{module.__name__}.")
    return sorted(one.name for one in found if not one.name.rpartition(".")[2].startswith("_"))
