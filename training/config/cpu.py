"""In which arithmetic does this CPU train?"""

from __future__ import annotations

from typing import Any

import torch


def cpu_has_bfloat16() -> bool:
    """Tell whether the CPU multiplies in bfloat16; others only imitate it, 30 to 70 times slower than float32.

    An older PyTorch that does not know what the CPU can do counts as no.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))
