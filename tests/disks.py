"""Gives tests a small disk, or one that cannot be written to, where the system lets them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    """Mount a disk in memory at a new folder; `options` are those of tmpfs, as "size=2m"."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk takes root on Linux")
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def remount(path: Path, options: str) -> None:
    """Change a disk that `small_disk` made."""
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


@contextmanager
def read_only_folder(path: Path) -> Iterator[Path]:
    """Make a folder that nobody can write to; permissions do not bind root, a read-only disk does."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        with small_disk(path, "size=64k,ro") as folder:
            yield folder
        return
    path.mkdir()
    path.chmod(0o555)
    if os.access(path, os.W_OK):
        pytest.skip("permissions do not bind here")
    try:
        yield path
    finally:
        path.chmod(0o755)


@contextmanager
def protected(path: Path) -> Iterator[None]:
    """Make a file that nobody can write to; root neither."""
    path.write_text("old")
    path.chmod(0o444)
    if os.access(path, os.W_OK) and shutil.which("chattr"):
        subprocess.run(["chattr", "+i", path], capture_output=True)
    try:
        if os.access(path, os.W_OK):
            pytest.skip("files cannot be protected here")
        yield
    finally:
        if shutil.which("chattr"):
            subprocess.run(["chattr", "-i", path], capture_output=True)
        path.chmod(0o644)
