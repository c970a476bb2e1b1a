"""Has the content of a mask changed, as far as its files say?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

# What stores say of a file that changes with it, by fsspec's many names.
_CHANGED = ("ETag", "etag", "CRC", "mtime", "LastModified", "last_modified", "modified", "updated", "created")


def file_facts(where: str) -> Iterator[str]:
    """Name, size and time (or ETag) of every file of a mask, in order of name."""
    fs, root = fsspec.url_to_fs(where)
    if isinstance(fs, LocalFileSystem):
        yield from _local_facts(Path(root), "")
        return
    fs.invalidate_cache()  # else a store may tell what it saw before
    found = fs.find(root, detail=True) or {root: fs.info(root)}
    for path in sorted(found):
        facts = found[path]
        changed = next((facts[key] for key in _CHANGED if facts.get(key)), None)
        if changed is None:  # as over HTTP
            raise OSError(f"{where}: its storage does not say when a file changed")
        yield f"{re.sub('^' + re.escape(root), '', path)} {facts.get('size')} {changed}\n"


def _local_facts(path: Path, name: str) -> Iterator[str]:
    """The same for a file or folder of this machine, with no more than one folder's names in memory."""
    if not path.is_dir():
        yield _fact(name, path.stat())
        return
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        inside = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _local_facts(Path(entry.path), inside)
        else:
            yield _fact(inside, entry.stat())


def _fact(name: str, facts: os.stat_result) -> str:
    return f"{name} {facts.st_size} {facts.st_mtime_ns}\n"
