"""How do folders of images and masks become training batches?

`open_source` finds out what a folder holds and gives a `Source`; `split` sets slides aside; `draw_batch` draws the input of
one step. Nothing here needs PyTorch but `on_the_fly`, which gives regions of virtual slides.
"""

from safron.training.data.batches import Batch, draw_batch, draw_batches, draw_noise
from safron.training.data.folders import open_source
from safron.training.data.source import Pairs, Source, split

__all__ = ["Batch", "Pairs", "Source", "draw_batch", "draw_batches", "draw_noise", "open_source", "split"]
