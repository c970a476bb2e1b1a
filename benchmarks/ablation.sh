#!/usr/bin/env bash
# The four generators of the seam table, from one folder of EBHI-Seg frames, with equal steps of equal cost:
#
#     benchmarks/ablation.sh DATA OUT [STEPS]
#
# tile, patch, overlap0: the paper's recipe at its small size, judged by stitched tiles, by single patches, and by single
# patches that do not overlap (render that one with --overlap 0). ours: safron-seamless at its small size. A step of
# each takes 0.18 to 0.20 s on two cores. STEPS is 2200 unless given, seven minutes each on an idle machine. Started
# again after a break, it goes on where it was.
set -euo pipefail
data=$1 out=$2 steps=${3:-2200}

train() {
    local name=$1
    shift
    if [ -f "$out/$name/checkpoint.pt" ]; then
        set -- "$@" --resume
    fi
    safron-train "$data" "$out/$name" "$@" --seed 0 --device cpu --threads 2 --steps "$steps"
    safron-train export "$out/$name/checkpoint.pt" "$out/$name.onnx"
}

mkdir -p "$out"
train tile --preset safron --size small
train patch --preset safron --size small --discriminator patch
train overlap0 --preset safron --size small --discriminator patch --overlap 0
train ours --preset safron-seamless --size small
