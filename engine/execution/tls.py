"""Which processes may connect to the workers? Those with a certificate of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from msgspec import Struct
from safron.io.errors import BadInput
from safron.io.fields import convert, hints
from safron.io.files import parse_text, what_is_there

T = TypeVar("T")


class _Files(Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the file of ``--security``."""

    ca: Path
    cert: Path
    key: Path


def load_security(file: Path | None) -> Any:
    """Read the file of ``--security``; return None without one.

    It is YAML with three paths, relative to the file: ``ca``, ``cert`` and ``key``, all PEM. Scheduler, workers and
    driver present the same certificate and accept only certificates that ``ca`` has signed.

    Raises
    ------
    BadInput
        The file, or one that it names, is missing or wrong.
    """
    if file is None:
        return None
    import ssl

    from distributed import Security

    files = read_settings(file, "--security", _Files)
    given = {name: file.parent / getattr(files, name) for name in hints(_Files)}
    for name, path in given.items():
        if not path.is_file():
            raise BadInput(
                f"--security {file}: {name} {path}: {what_is_there(path)}; give its name, from the folder of {file}"
            )
    try:
        ssl.create_default_context(cafile=str(given["ca"])).load_cert_chain(given["cert"], given["key"])
    except (ssl.SSLError, OSError) as error:
        raise BadInput(f"--security {file}: not PEM certificates with their key ({error})") from error
    roles: dict[str, str] = {}
    for role in ("client", "scheduler", "worker"):
        roles |= {f"tls_{role}_cert": str(given["cert"]), f"tls_{role}_key": str(given["key"])}
    return Security(tls_ca_file=str(given["ca"]), require_encryption=True, **roles)


def read_settings(file: Path, option: str, kind: type[T]) -> T:
    """Read a YAML file of the fields of a class.

    Raises
    ------
    BadInput
        It is missing or not YAML, lacks a name, has an unknown one, or a value breaks its rule.
    """
    import yaml

    form = f"lines of NAME: VALUE, with {', '.join(hints(cast(Any, kind)))}"
    found = parse_text(file, yaml.safe_load, kind="YAML", remedy=f"give {form}", name=f"{option} ")
    if not isinstance(found, dict):
        raise BadInput(f"{option} {file}: must be {form}")
    return convert(found, kind, f"{option} {file}")
