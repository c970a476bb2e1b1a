"""What setup.cfg cannot say: the one module that is compiled. Where there is no compiler, it is left out, and NumPy does its work."""

import sys

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "safron.engine.system._native",
            ["engine/system/_native.c"],
            py_limited_api=True,
            optional=True,
            extra_compile_args=["/fp:precise"] if sys.platform == "win32" else ["-O3", "-ffp-contract=off"],
        )
    ]
)
