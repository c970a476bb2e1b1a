"""Do retired words stay away? docs/glossary.md has the words in use; these were dropped because readers misunderstood them.

Pages, help texts and messages are searched. Names in code, report keys and card keys keep working and are not searched.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
HISTORY = ROOT / "docs" / "glossary.md"  # names old words, in a column of their own


@dataclass(frozen=True)
class Retired:
    """A word or turn of phrase that is not used any more.

    Attributes
    ----------
    pattern : regular expression for one line of text, in any case.
    example : text that it finds.
    instead : what to write; the pattern does not find it.
    reason : why readers stumbled.
    """

    pattern: str
    example: str
    instead: str
    reason: str


RETIRED = tuple(
    Retired(*row)
    for row in (
        (r"\bpaint(?:ed|s|ing)?\b", "8 painted as glass", "8 filled as background", "two meanings"),
        (
            r"\bpatch(?:es)? (?:is|are|was|were) (?:never )?run\b|\{\}(?: are| to)? run\b",
            "{} run once each",
            "{} generated",
            "a patch is not a program",
        ),
        (
            r"(?:\bas|\bwith|\bof|\bis|\bno|%) glass\b|\bglass (?:patch|tile|label)",
            "pad with glass",
            "pad with background",
            "glass is the physical slide",
        ),
        (r"\bhalo\b", "halo of 20 px", "context of 20 px", "two words for one thing"),
        (
            r"\b(?:blocks?|chunks?|tasks?|patches) at work\b|\bin work\b",
            "blocks in work",
            "blocks in flight",
            "not English",
        ),
        (r"\bgo(?:ne|es)? on (?:with|from)\b", "gone on with", "resumed", "not English"),
        (r"\b(?:patches|batches) a call\b", "patches a call", "patches per call", "not English"),
        (
            r"\bjudges?\b|\bjudged by\b",
            "what the judge sees",
            "what the discriminator sees",
            "the field's word",
        ),
        (r"\brehears\w*|\btrials?\b", "the trial batch", "the warm-up batch", "the field's word"),
        (r"\bruns? apart\b", "patches run apart", "batch-invariant", "nobody could guess it"),
        (r"\bintegral\b", "an integral generator", "returns uint8", "mathematics uses it for something else"),
        (
            r"\blook(?:s|ed)? at the mask\b|\bmask (?:is|was) looked at\b",
            "the mask is looked at",
            "the mask is checked",
            "vague",
        ),
        (r"\bguard(?:s|ed)?\b|\bstamps?\b", "the mask's stamp", "the mask's fingerprint", "vague"),
        (r"\bparcels?\b|\btally\b|\btallies\b|\bdesks?\b", "the job's parcel", "the job payload", "invented"),
        (r"\bdear(?:er)?\b", "a dear generator", "a slow generator", "archaic"),
        (
            r"\bthe \**floor\b|\bthe \*\*chain\b|\bshares? of the (?:floor|limit)\b",
            "share of the floor",
            "efficiency",
            "invented",
        ),
        (
            r"\bseam (?:patch|task|sum|store)|\b(?:its|their|other|stored|finished) seams\b"
            r"|\bseams (?:that|in|of) (?:memory|scratch|a block|blocks)\b",
            "wait for their seams",
            "wait for their boundary patches",
            "a seam is what the eye sees",
        ),
        (r"\bwho(?:so)?ever\b", "whoever reaches them", "anyone who can reach it", "a clause as subject"),
        (
            r"(?<!there )\b(?:is|are) no (?!longer|more than|less|later)",
            "'x' is no number",
            "'x' is not a number",
            "not English",
        ),
        (r"\bunder way\b", "a mask that changes under way", "changes during the render", "vague"),
        (r"\bthat (?:is|are) gone\b|\bmade anew\b", "a line that is gone", "a lost line", "not English"),
        (r"\bhalf[ -]way\b", "a disk that fills up half way", "fills up part-way", "reads like a measure"),
    )
)

EXEMPT: frozenset[str] = frozenset()
"""Modules, as paths in the repository, whose messages are not rewritten yet. To be empty."""


def retired_in(text: str) -> Iterator[str]:
    """Each retired word in a text, with what is better."""
    for word in RETIRED:
        for found in re.finditer(word.pattern, text, re.IGNORECASE):
            yield f"{found[0]!r}: {word.reason}; write as in {word.instead!r}"


def prose(page: Path) -> str:
    """A page's text, a paragraph a line, without code, names in backticks, and tables that are made from the code."""
    text = page.read_text(encoding="utf-8")
    if page.name == "cli.md":
        text = re.sub(r"<!-- options: safron-render -->.*?<!-- end -->", "", text, flags=re.S)
    if page == HISTORY:
        text = re.sub(r"^(\|.*\|)[^|\n]*\|$", r"\1", text, flags=re.M)  # the last column has the old words
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", "", text)
    return re.sub(r"(?<!\n)\n(?=[^\n|#-])", " ", text)


@pytest.mark.parametrize("word", RETIRED, ids=lambda word: word.example)
def test_each_pattern_finds_its_example_and_not_its_replacement(word: Retired) -> None:
    assert re.search(word.pattern, word.example, re.IGNORECASE)
    assert not list(retired_in(word.instead))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_no_retired_words(page: Path) -> None:
    assert not list(retired_in(prose(page)))


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string that someone may be shown: of two words or more, with {} for values.

    Docstrings are not shown, but for those of commands, which are their help.
    """
    return _texts(ast.parse(path.read_text(encoding="utf-8")))


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield node.lineno, "".join(parts)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value
    else:
        if isinstance(node, ast.FunctionDef) and _is_command(node):
            yield node.lineno, ast.get_docstring(node) or ""
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def _is_command(node: ast.FunctionDef) -> bool:
    return any(
        part in ast.unparse(decorator)
        for decorator in node.decorator_list
        for part in (".command", ".group", "click.")
    )


MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("engine", "io", "training")
    for path in (ROOT / folder).rglob("*.py")
)


def retired_in_messages(module: str) -> list[str]:
    return [
        f"{module}:{line}: {fault}"
        for line, text in messages(ROOT / module)
        for fault in retired_in(" ".join(text.split()))
    ]


def test_messages_have_no_retired_words() -> None:
    assert [fault for name in MODULES if name not in EXEMPT for fault in retired_in_messages(name)] == []


def test_exempt_modules_need_it() -> None:
    for module in sorted(EXEMPT):
        assert module in MODULES, f"{module} does not exist: take it from EXEMPT"
        assert retired_in_messages(module), f"{module} has no retired words: take it from EXEMPT"
