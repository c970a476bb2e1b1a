#!/usr/bin/env bash
# The generators of the seam table, each trained anew from every seed, all with one schedule:
#
#     benchmarks/ablation.sh DATA OUT [STEPS [NAME...]]         SEEDS="0 1 2" unless set; every NAME below unless given
#     python benchmarks/seams.py DATA tile=OUT/tile-0.onnx tile=OUT/tile-1.onnx overlap0=OUT/overlap0-0.onnx@0 ... --tile 64
#
# tile, patch, overlap0, noskips: the paper's recipe at its small size, with a discriminator of stitched tiles, of single
# patches, of single patches that do not overlap (render that one with @0), and of tiles without skip connections in the
# generator; at 0.95 um, 3 x 3 patches without overlap, 232 px with their context, still fit into a frame. scales:
# safron-seamless at its small size. DATA is EBHI-Seg's frames; they are prepared once. NAME-SEED is
# trained seed after seed, so that a script that was stopped early has whole sets of seeds. Started again it resumes, and
# refuses another STEPS. classes and +diffaugment of LOG.md need version 0.1.
set -euo pipefail
data=$1 out=$2 steps=${3:-2200}
shift $(($# < 3 ? $# : 3))
[ $# -gt 0 ] || set -- tile patch overlap0 noskips scales

train() { # NAME SEED OPTION...
    local run=$out/$1-$2 seed=$2
    shift 2
    [ ! -f "$run.onnx" ] || return 0
    mkdir -p "$run"
    for prepared in "$out"/*/pairs-*.npz; do
        [ ! -f "$prepared" ] || [ -f "$run/${prepared##*/}" ] || ln "$prepared" "$run/"
    done
    if [ -f "$run/checkpoint.pt" ]; then
        grep -q "\"steps\": $steps," "$run/checkpoint.json" || {
            echo "$run was begun with another number of steps than $steps; give the same, or another folder" >&2
            exit 2
        }
        set -- "$@" --resume
    fi
    safron-train fit "$data" "$run" --data-set ebhi "$@" --seed "$seed" --device cpu --threads 2 --steps "$steps"
    safron-train export "$run/checkpoint.pt" "$run.onnx" --overwrite
}

mkdir -p "$out"
for seed in ${SEEDS:-0 1 2}; do
    for name in "$@"; do
        case $name in
        tile) train "$name" "$seed" --preset safron --size small --mpp 0.95 ;;
        patch) train "$name" "$seed" --preset safron --size small --mpp 0.95 --discriminator patch ;;
        overlap0) train "$name" "$seed" --preset safron --size small --mpp 0.95 --discriminator patch --overlap 0 ;;
        noskips) train "$name" "$seed" --preset safron --size small --mpp 0.95 --no-skips ;;
        scales) train "$name" "$seed" --preset safron-seamless --size small ;;
        *)
            echo "$name is not one of tile, patch, overlap0, noskips, scales" >&2
            exit 2
            ;;
        esac
    done
done
