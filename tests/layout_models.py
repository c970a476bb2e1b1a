"""Small masks of nuclei and mask models, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from masks import cells
from safron.io.legend import Label
from safron.io.masks.write import write_labels
from safron.io.masks.write_nuclei import write_nuclei
from safron.training.layouts.export import export_network
from safron.training.layouts.settings import EMPTY, LayoutConfig
from safron.training.layouts.train import make_network

TYPES = ("neoplastic", "inflammatory", "connective")
REGIONS = (
    Label(0, "background", (255, 255, 255), EMPTY),
    Label(1, "tissue", (255, 200, 220)),
    Label(2, "tumor", (0, 160, 0)),
)
TINY = LayoutConfig(
    types=TYPES, labels=REGIONS, widths=(8, 16), blocks=1, crop=16, batch=2, steps=4, context=8, rate=1e-3,
    held_out=(0.5, 0.75), bfloat16=False,
)  # fmt: skip


def write_model(path: Path, **changes: Any) -> dict[str, Any]:
    """Write a mask model with random weights, and give its card; what it draws is coarse, and hangs together in many ways."""
    torch.manual_seed(0)
    network = make_network(TINY)
    torch.nn.init.normal_(network.out.weight, std=0.15)
    return export_network(network, TINY, path, steps=4, tile=64, said={"licence": "none"} | changes)


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write a mask of nuclei of three types, and one of its regions."""
    types, numbers = cells(1, side=96)
    types = (np.where(types > 0, 1 + types % 3, 0) + (numbers > 0)).astype(
        np.uint8
    )  # 2 to 4, as with tissue at 1
    named = [Label(0, "background", (0, 0, 0)), Label(1, "tissue", (9, 9, 9))]
    named += [Label(2 + place, name, (place, 1, 2)) for place, name in enumerate(TYPES)]
    nuclei, regions = folder / "nuclei.zarr", folder / "regions.zarr"
    write_nuclei(
        nuclei, lambda y, x: (types[y, x], numbers[y, x]), height=96, width=96, mpp=0.5, most=int(numbers.max()),
        labels=named, workers=1,
    )  # fmt: skip
    labels = np.ones((96, 96), np.uint8)
    labels[:, 48:] = 2
    write_labels(regions, lambda y, x: labels[y, x], height=96, width=96, mpp=0.5, labels=REGIONS, workers=1)
    return nuclei, regions
