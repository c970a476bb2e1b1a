"""Damaged input of every kind ends in one line: 200 of the cases of benchmarks/fuzz.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_damaged_input_ends_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--count", "50", "--seed", "0", "1", "2", "3"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["cases"] == 200
