"""FID and KID of two sets of tiles.

torchmetrics computes them from features of an encoder in a local file: TorchScript, or torch-fidelity's InceptionV3
weights. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safron.io.errors import BadInput, one_line
from safron.io.files import what_is_there
from torch import Tensor, nn

BATCH = 32
Encoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DeepDistances:
    """FID, KID with its deviation over subsets, the features' number, and the SHA-256 of the weights."""

    fid: float
    kid: float
    kid_deviation: float
    dimensions: int
    weights_sha256: str


def deep_distances(
    real: Iterable[npt.NDArray[np.uint8]],
    fake: Iterable[npt.NDArray[np.uint8]],
    weights: Path,
    *,
    subset: int,
    device: str = "cpu",
) -> DeepDistances:
    """Compare two sets of tiles, uint8 [y, x, 3] of one size.

    Parameters
    ----------
    weights
        See `load_encoder`.
    subset
        Tiles of each of KID's 100 subsets.
    device
        A PyTorch device.

    Raises
    ------
    BadInput
        The file is not an encoder, or does not take tiles of this size.
    """
    encoder = load_encoder(weights, device)
    features = [torch.cat(list(_features(encoder, tiles, weights, device))) for tiles in (real, fake)]
    fid, (kid, deviation) = frechet(*features), kernel(*features, subset=subset)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return DeepDistances(fid, kid, deviation, features[0].shape[1], digest)


class _Given(nn.Module):
    """Takes the place of torchmetrics' network, since features are computed beforehand."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        """Return the features unchanged."""
        return features


def frechet(real: Tensor, fake: Tensor) -> float:
    """FID of two sets of features [n, d], by torchmetrics in float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return float(metric.compute())


def kernel(real: Tensor, fake: Tensor, *, subset: int) -> tuple[float, float]:
    """KID of two sets of features [n, d], by torchmetrics: mean and deviation over 100 subsets, the same each time."""
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        torch.manual_seed(0)
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=100, subset_size=subset)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def load_encoder(weights: Path, device: str = "cpu") -> Encoder:
    """Load an encoder that takes uint8 [n, 3, y, x], RGB 0..255, and returns features [n, d].

    A TorchScript file must take such tiles. If its ``forward`` has an argument ``return_features``, as the common
    InceptionV3 file has, that is set. A file of plain weights is read as torch-fidelity's InceptionV3.

    Raises
    ------
    BadInput
        The file is missing or is neither of the two, or PyTorch cannot use the device.
    """
    _check_device(device)
    if not weights.is_file():
        raise BadInput(f"--weights {weights}: {what_is_there(weights)}; give an encoder's weights")
    try:
        module: Any = _load_script(weights).to(device).eval()
    except RuntimeError:
        return _load_inception(weights, device)
    names = [argument.name for argument in module.forward.schema.arguments]
    if "return_features" in names:
        return lambda tiles: module(tiles, return_features=True)
    return lambda tiles: module(tiles)


def _check_device(device: str) -> None:
    """Raise `BadInput` unless PyTorch can compute there, which its name does not tell."""
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # AssertionError and RuntimeError, by what is missing
        raise BadInput(
            f"--device {device}: PyTorch cannot compute there ({one_line(error)}); give cpu, or cuda where there is one"
        ) from error


def _load_script(weights: Path) -> Any:
    with warnings.catch_warnings():
        # PyTorch recommends torch.export instead, whose files fix the input size.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(str(weights), map_location="cpu")  # type: ignore[no-untyped-call]


def _load_inception(weights: Path, device: str) -> Encoder:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found,unused-ignore]
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise BadInput(
            f"--weights {weights}: not a TorchScript file; for torch-fidelity's InceptionV3 weights run "
            "pip install torch-fidelity torchvision, else save the encoder with torch.jit.script"
        ) from error
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )
    except Exception as error:  # foreign files raise anything
        raise BadInput(
            f"--weights {weights}: neither a TorchScript file nor torch-fidelity's InceptionV3 weights"
        ) from error
    network.to(device).eval()
    return lambda tiles: network(tiles)[0]


def _features(
    encoder: Encoder, tiles: Iterable[npt.NDArray[np.uint8]], weights: Path, device: str
) -> Iterator[Tensor]:
    """Features of all tiles, batch by batch: float64 [n, d] on the CPU."""
    waiting: list[npt.NDArray[np.uint8]] = []
    for tile in tiles:
        waiting.append(tile)
        if len(waiting) == BATCH:
            yield _encode(encoder, waiting, weights, device)
            waiting.clear()
    if waiting:
        yield _encode(encoder, waiting, weights, device)


def _encode(encoder: Encoder, tiles: list[npt.NDArray[np.uint8]], weights: Path, device: str) -> Tensor:
    batch = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).contiguous().to(device)
    try:
        with torch.inference_mode():
            features = encoder(batch)
    except Exception as error:  # TorchScript raises the exceptions of its operators
        first = (str(error).strip().splitlines() or [""])[-1]
        raise BadInput(
            f"--weights {weights}: does not take uint8 tiles {list(batch.shape)}: {first}"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(tiles):
        raise BadInput(f"--weights {weights}: must return features [n, d] for tiles [n, 3, y, x]")
    if not features.isfinite().all():
        raise BadInput(f"--weights {weights}: returns features that are not finite; give another encoder")
    return features.double().cpu()
