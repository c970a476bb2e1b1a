#!/usr/bin/env bash
# Most diffusers schedulers advance at each call of step: the same call a second time gives another result.
#
# A large picture sampled tile by tile with one call of step a tile is wrong from the second tile on, without an error: the
# scheduler counts calls and keeps the last predictions of the other tile. Only DDIM and DDPM depend on their arguments alone.
# Safe: one call of step a time step, for the whole canvas; or a copy of the scheduler for each tile.
#
# Seen on 2026-11-29 with diffusers 0.42.1, torch 2.13.0, the largest difference between two equal calls:
#   DDIM 0, DDPM 0
#   Euler 10, EulerAncestral 17, DPMSolverMultistep 1.9, UniPCMultistep 0.75, DEISMultistep 0.75, PNDM 4.4, LCM 1.7
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import inspect
import sys
import warnings

warnings.filterwarnings("ignore")
import diffusers
import torch

diffusers.utils.logging.set_verbosity_error()
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
random = torch.Generator().manual_seed(0)
sample, prediction = (torch.randn(1, 3, 8, 8, generator=random) for _ in range(2))


def difference(name):
    """Largest difference between two calls of step with the same arguments and the same noise."""
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(10)
    time, found = scheduler.timesteps[3], []
    for _ in range(2):
        noise = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            noise["generator"] = torch.Generator().manual_seed(1)
        found.append(scheduler.step(prediction, time, sample, **noise).prev_sample)
    return float((found[0] - found[1]).abs().max())


STEADY = ["DDIMScheduler", "DDPMScheduler"]
COUNTING = [
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    "DEISMultistepScheduler", "PNDMScheduler", "LCMScheduler",
]  # fmt: skip
steady = {name: difference(name) for name in STEADY}
counting = {name: difference(name) for name in COUNTING}
for group in (steady, counting):
    print(", ".join(f"{name.removesuffix('Scheduler').removesuffix('Discrete')} {by:.2g}" for name, by in group.items()))
if max(steady.values()) > 0 or min(counting.values()) < 0.1:
    sys.exit("changed: see the head of this script")
PYTHON
