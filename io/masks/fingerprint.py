"""Has the content of a mask changed, as far as its files say?

Files that an operating system or a file manager leaves in a folder are no part of the mask: see `safron.io.files.is_foreign`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
from safron.io.errors import one_line
from safron.io.files import is_foreign, open_input

# What stores say of a file that changes with its content, by fsspec's many names.
_CHANGED = ("ETag", "etag", "CRC", "mtime", "LastModified", "last_modified", "modified", "updated", "created")

_PIECE = 1 << 20

File = Path | os.DirEntry[str]
"""A file or folder, as its folder lists it: of many files a path for each would cost more than to ask for their times."""


def file_facts(where: str) -> Iterator[str]:
    """Name, size and time (or ETag) of every file of a mask, in order of name."""
    if "://" in where:
        yield from _remote_facts(where)
        return
    for name, file in _local_files(Path(where)):
        facts = file.stat()
        yield f"{name} {facts.st_size} {facts.st_mtime_ns}\n"


def content_facts(where: str) -> Iterator[str]:
    """Name and content hash (or size and ETag) of every file of a mask, in order of name."""
    if "://" in where:
        yield from _remote_facts(where)
        return
    for name, file in _local_files(Path(where)):
        digest = hashlib.blake2b(digest_size=16)
        with open_input(os.fspath(file)) as content:
            while piece := content.read(_PIECE):
                digest.update(piece)
        yield f"{name} {digest.hexdigest()}\n"


def _remote_facts(url: str) -> Iterator[str]:
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()  # or a store may answer from what it saw before
    try:
        found = fs.find(root, detail=True) or {root: fs.info(root)}
    except OSError:
        raise
    except Exception as error:  # stores have exceptions of their own
        raise OSError(f"{url}: its storage does not list files ({one_line(error)})") from error
    for path in sorted(found):
        name = re.sub("^" + re.escape(root), "", path)
        if any(map(is_foreign, name.split("/"))):
            continue
        facts = found[path]
        changed = next((facts[key] for key in _CHANGED if facts.get(key)), None)
        if changed is None:  # as over HTTP
            raise OSError(f"{url}: its storage does not say when a file changed")
        yield f"{name} {facts.get('size')} {changed}\n"


def _local_files(file: File, name: str = "") -> Iterator[tuple[str, File]]:
    """All files of a file or folder on this machine, with only one folder's names in memory at a time."""
    if not file.is_dir():
        yield name, file
        return
    with os.scandir(file) as found:
        entries = sorted((entry for entry in found if not is_foreign(entry.name)), key=lambda e: e.name)
    for entry in entries:
        yield from _local_files(entry, f"{name}/{entry.name}")
