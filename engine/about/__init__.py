"""SAFRON: tissue masks in, gigapixel synthetic pathology slides out.

This folder is the package ``safron`` itself (``package_dir`` in setup.cfg) and holds only the version and, in
`safron.programs`, where the commands begin. The code is in
`safron.engine`, `safron.io` and `safron.training`, each a folder at the top of the repository.
"""

__version__: str


def __getattr__(name: str) -> str:
    # On first use only, since importlib.metadata would slow every start of a command.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("safron")
