#!/usr/bin/env bash
# torchmetrics' generalized Dice of an image depends on the other images of its batch.
#
# A class weighs 1 / area^2 ("square", the default) or 1 / area ("simple"). A class that an image lacks would weigh
# infinitely much, and gets the largest weight that any image of the batch has for it; alone in its batch it weighs 0. So one
# prediction has two scores, and a mean over a test set changes with the batch size. (Known: an absent class that is rightly not
# predicted counts as 0, with per_class=True and without background.)
# Safe: weight_type="linear", or DiceScore. With the others, update with one image at a time, and wrong pixels of a class that
# is not there cost nothing.
#
# Seen on 2026-12-01 with torchmetrics 1.9.0, torch 2.13.0; 16 x 16 px, class 1 in 16 px, class 2 predicted in 8 px where none is:
#   alone: 0.999; beside a perfectly predicted image with one pixel of class 2: 0.81
#   8 random images, four of them without classes 1 and 2: square 0.449 in one batch, 0.548 one by one
#     simple 0.475 in one batch, 0.549 one by one; linear 0.509 and 0.509; DiceScore 0.470 and 0.470
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

warnings.filterwarnings("ignore")  # of its imports
import torch
import torchmetrics
from torchmetrics.segmentation import DiceScore, GeneralizedDiceScore

print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")


def score(metric, predicted, true, size):
    """The metric over all images, updated with so many at a time."""
    for first in range(0, len(true), size):
        metric.update(predicted[first : first + size], true[first : first + size])
    return round(float(metric.compute()), 3)


def generalized(**options):
    return GeneralizedDiceScore(3, input_format="index", **options)


true = torch.zeros(1, 16, 16, dtype=torch.long)
true[0, :4, :4] = 1
predicted = true.clone()
predicted[0, :4, 4:6] = 2
beside = torch.zeros_like(true)
beside[0, 0, 0] = 2
alone = score(generalized(), predicted, true, 1)
together = 2 * score(generalized(), torch.cat([predicted, beside]), torch.cat([true, beside]), 2) - 1  # the other one has 1
print(f"alone: {alone}; beside a perfectly predicted image with one pixel of class 2: {together:.2f}")

draw = torch.Generator().manual_seed(0)
guesses, masks = (torch.randint(0, 3, (8, 16, 16), generator=draw) for _ in range(2))
masks[4:], guesses[4:6] = 0, 0
found = {}
print("8 random images, four of them without classes 1 and 2, in one batch and one by one:")
for name, make in [
    *((kind, lambda kind=kind: generalized(weight_type=kind)) for kind in ("square", "simple", "linear")),
    ("DiceScore", lambda: DiceScore(3, average="macro", input_format="index")),
]:
    found[name] = [score(make(), guesses, masks, size) for size in (8, 1)]
    print(f"  {name}: {found[name][0]}, {found[name][1]}")
same = all(abs(found[name][0] - found[name][1]) < 0.002 for name in ("linear", "DiceScore"))
if not (alone > 0.99 and together < 0.82 and same and all(found[n][1] - found[n][0] > 0.05 for n in ("square", "simple"))):
    sys.exit("changed: see the head of this script")
PYTHON
