"""How are arrays held that are together larger than memory?"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import Failed

_PIECE = 1 << 20


def spill(arrays: Iterable[npt.NDArray[Any]], folder: Path | None = None) -> tuple[npt.NDArray[Any], ...]:
    """Move arrays to an unnamed file, one by one, and return them mapped: the system keeps in memory those in use.

    Parameters
    ----------
    arrays
        Of any shapes and types; each is dropped before the next is asked for.
    folder
        On whose disk the file lies; it need not exist yet. By default that of temporary files.

    Raises
    ------
    Failed
        The disk is full or cannot be written to.

    Examples
    --------
    >>> spill(np.arange(number) for number in (2, 3))
    (array([0, 1]), array([0, 1, 2]))
    """
    while folder is not None and not folder.is_dir():
        folder = folder.absolute().parent
    forms = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for array in arrays:
                file.seek(-file.tell() % 16, 1)  # aligned for any type
                forms.append((array.shape, array.dtype, file.tell()))
                file.write(np.ascontiguousarray(array).data)
            file.flush()
            whole = np.memmap(file, np.uint8, "c")  # copy on write; stays when the file is closed
    except OSError as error:
        place = folder or tempfile.gettempdir()
        raise Failed(
            f"{place}: cannot hold arrays there ({error.strerror}); make room on its disk"
        ) from error
    return tuple(np.ndarray(shape, kind, whole, start) for shape, kind, start in forms)


def reserve(file: IO[bytes], nbytes: int) -> None:
    """Make a file so large, and give it room on its disk, before it is mapped to be written.

    A write to mapped memory for which the disk has no room kills the process.

    Raises
    ------
    OSError
        The disk is full, or refuses the file.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, max(1, nbytes))
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise OSError(error.errno, error.strerror, str(file.name)) from error
        file.seek(0)
        for start in range(0, max(1, nbytes), _PIECE):  # a disk that reserves nothing
            file.write(bytes(min(_PIECE, nbytes - start)))
        file.flush()
