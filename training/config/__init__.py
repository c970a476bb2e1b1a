"""Which settings define a training run, and how are they read, checked and hashed?"""

from safron.training.config.settings import PRESETS, ModelConfig, TrainConfig, override, preset

__all__ = ["PRESETS", "ModelConfig", "TrainConfig", "override", "preset"]
