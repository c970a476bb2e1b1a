"""Helpers in this folder are imported by their own names (oracle, models, cases)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
