"""Which data does a diffusion model learn from? Nothing here needs PyTorch, so that what is wrong with them is said early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safron.io.errors import BadInput
from safron.training.config.data_sets import DataFacts
from safron.training.config.settings import TrainConfig
from safron.training.data import Source, open_source

from .settings import DiffusionConfig


def open_data(data: Path, config: DiffusionConfig, facts: DataFacts, cache: Path | None = None) -> Source:
    """Open training data at the pixel size of the settings; see `safron.training.data.open_source`."""
    usual = TrainConfig()
    model = replace(
        usual.model,
        labels=config.labels,
        mpp=config.mpp,
        noise_scales=(1,),
        context=config.context,
        nuclei=config.nuclei,
    )
    source = open_source(data, replace(usual, model=model, patch=config.crop), cache, facts)
    if config.nuclei and not getattr(source, "edges", ()):
        raise BadInput(
            f"--edges: {data} has no numbers of nuclei; give data as --data-set consep, or leave it out"
        )
    return source
