"""How does a finished file reach an object store, whole or not at all?

A slide is always assembled in a local folder. If it is meant for a URL that fsspec knows (``s3://``, ``gs://``,
``memory://``, ...), the finished file is then uploaded in parts, several at a time. Object stores make it visible with
the last part; on stores that show unfinished files, it is uploaded under another name and renamed.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from . import files
from .addresses import is_url
from .errors import BadInput, Failed, one_line

# On these a file becomes visible only when it is whole.
_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "memory"}
_S3 = {"s3", "s3a"}
PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
TRIES = 3


@dataclass(frozen=True)
class Target:
    """The destination of a slide.

    Attributes
    ----------
    name
        As the user gave it.
    local
        Path of the slide, or the one that it would have if it were local; unfinished files lie beside it.
    url
        Where the finished slide is uploaded; None for a local slide.
    """

    name: str
    local: Path
    url: str | None = None

    @classmethod
    def of(cls, out: str | Path, *, folder: str | Path | None = None) -> Target:
        """Make the target of a path or URL; `folder`, if it is local, holds the unfinished files of a URL."""
        text = str(out)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if not is_url(text):
            return cls(str(out), Path(text))
        place = hashlib.sha256(text.encode()).hexdigest()[:8]
        base = cache_folder() if folder is None or is_url(folder) else Path(folder).absolute()
        return cls(text, base / f"{text.rstrip('/').rpartition('/')[2]}.{place}", text)

    @property
    def file_name(self) -> str:
        """The name without its folders."""
        return self.name.rstrip("/").rpartition("/")[2] if self.url else self.local.name

    @property
    def part(self) -> Path:
        """Path of the unfinished slide."""
        return self.local.with_name(f"{self.local.name}.part")

    def exists(self) -> bool:
        """Whether something exists there.

        Raises
        ------
        BadInput
            The store does not answer.
        """
        return self.size() is not None

    def size(self) -> int | None:
        """Size in bytes of what exists there; None where nothing does."""
        if self.url is None:
            return self.local.stat().st_size if self.local.exists() else None
        try:
            fs, path = _store(self.url)
            fs.invalidate_cache()
            return int(fs.info(path)["size"] or 0)
        except FileNotFoundError:
            return None
        except Exception as error:  # stores raise what their client libraries raise
            raise BadInput(
                f"{self.name}: the store does not answer ({one_line(error)}); check address and credentials"
            ) from error

    def check(self, *, overwrite: bool) -> None:
        """Raise `BadInput` unless a slide can be put there, as far as can be told beforehand."""
        if self.url is None:
            files.check_output_path(self.local, overwrite=overwrite)
            return
        fs, bucket = _open(self.url)
        # First, so that a store that does not answer is not taken for one without the bucket.
        if self.exists() and not overwrite:
            raise BadInput(f"{self.url}: exists already; pass --overwrite to replace it")
        _require_bucket(fs, bucket, self.url)

    def send(self, *, overwrite: bool) -> None:
        """Upload the finished file, `part`, to the URL, and delete it here.

        Raises
        ------
        BadInput
            Something exists there and may not be overwritten.
        Failed
            The store does not accept it; the local file is kept.
        """
        assert self.url is not None
        if not overwrite and self.exists():
            raise files.exists(self.name)
        for tries_left in reversed(range(TRIES)):
            try:
                _put(self.part, self.url, overwrite=overwrite)
                break
            except FileExistsError:
                raise files.exists(self.name) from None
            except Exception as error:
                if not tries_left:
                    raise Failed(
                        f"{self.name}: the store refuses the slide ({one_line(error)}); "
                        "nothing was stored, and the same command sends it again"
                    ) from error
                time.sleep(1.0)
        sent, here = self.size(), self.part.stat().st_size
        if sent != here:
            raise Failed(f"{self.name}: only {sent} of {here} bytes arrived; run the same command again")
        self.part.unlink()


def cache_folder() -> Path:
    """Default folder for the unfinished slides of URLs; unlike a folder for temporary files, it survives a reboot."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "safron"


def _store(url: str) -> tuple[Any, str]:
    fs, path = fsspec.url_to_fs(url)
    return fs, str(path)


def check_folder(url: str) -> None:
    """Raise `BadInput` unless objects can be put below a URL, as far as can be told beforehand."""
    _require_bucket(*_open(f"{url.rstrip('/')}/x"), url)


def _open(url: str) -> tuple[Any, str]:
    """Open the store of a URL; return it and the bucket."""
    try:
        fs, path = _store(url)
    except ImportError as error:
        hint = "; pip install 'safron[s3]'" if url.startswith("s3") else ""
        raise BadInput(
            f"{url}: this kind of address needs one more package: {one_line(error)}{hint}"
        ) from error
    except Exception as error:
        raise BadInput(f"{url}: is not an address that fsspec knows ({one_line(error)})") from error
    bucket = path.strip("/").rpartition("/")[0].partition("/")[0]
    if not bucket and _protocol(fs) != "memory":
        raise BadInput(f"{url}: must name a file inside a bucket or folder")
    return fs, bucket


def _require_bucket(fs: Any, bucket: str, url: str) -> None:
    if _protocol(fs) in _ATOMIC - {"memory"} and not fs.exists(bucket):
        raise BadInput(
            f"{url}: there is no bucket {bucket!r}, or you may not see it; make it first, or check credentials"
        )


def _protocol(fs: Any) -> str:
    return fs.protocol if isinstance(fs.protocol, str) else str(fs.protocol[0])


def _put(file: Path, url: str, *, overwrite: bool) -> None:
    fs, path = _store(url)
    if _protocol(fs) in _S3:
        # "create" makes the store itself refuse a name that was taken a moment ago.
        mode = "overwrite" if overwrite else "create"
        fs.put_file(str(file), path, chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE, mode=mode)
    elif _protocol(fs) in _ATOMIC:
        fs.put_file(str(file), path)
    else:
        fs.put_file(str(file), f"{path}.part")
        fs.mv(f"{path}.part", path)
