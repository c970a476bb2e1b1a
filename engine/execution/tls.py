"""Who may talk to the workers? Those who have a certificate of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safron.io.errors import BadInput

_NEEDED = ("ca", "cert", "key")


def load_security(file: Path | None) -> Any:
    """Read the file of ``--security``; None without one.

    It is YAML with three paths, relative to the file: ``ca``, ``cert`` and ``key``, all PEM. Scheduler, workers and
    driver show the same certificate, and accept none that ``ca`` has not signed.

    Raises
    ------
    BadInput
        When the file, or one that it names, is missing or wrong.
    """
    if file is None:
        return None
    import ssl

    from distributed import Security

    paths = read_settings(file, "--security", known=_NEEDED, needed=_NEEDED)
    given = {name: file.parent / str(paths[name]) for name in _NEEDED}
    for name, path in given.items():
        if not path.is_file():
            raise BadInput(f"--security {file}: {name} {path}: no such file")
    try:
        ssl.create_default_context(cafile=str(given["ca"])).load_cert_chain(given["cert"], given["key"])
    except (ssl.SSLError, OSError) as error:
        raise BadInput(
            f"--security {file}: these are no PEM certificates with their key ({error})"
        ) from error
    roles: dict[str, str] = {}
    for role in ("client", "scheduler", "worker"):
        roles |= {f"tls_{role}_cert": str(given["cert"]), f"tls_{role}_key": str(given["key"])}
    return Security(tls_ca_file=str(given["ca"]), require_encryption=True, **roles)


def read_settings(
    file: Path, option: str, *, known: tuple[str, ...], needed: tuple[str, ...]
) -> dict[str, Any]:
    """Read a YAML file of known names.

    Raises
    ------
    BadInput
        When it is missing, is no YAML, lacks a name or has an unknown one.
    """
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{option} {file}: cannot read it ({getattr(error, 'strerror', None) or error})"
        ) from error
    except yaml.YAMLError as error:
        raise BadInput(f"{option} {file}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{option} {file}: must be lines of NAME: VALUE, with {', '.join(needed)}")
    for name in found:
        if name not in known:
            raise BadInput(f"{option} {file}: unknown name {name!r}; it may have {', '.join(known)}")
    for name in needed:
        if found.get(name) is None:
            raise BadInput(f"{option} {file}: {name} is missing")
    return found
