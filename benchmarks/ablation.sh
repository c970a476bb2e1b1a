#!/usr/bin/env bash
# The generators of the seam table and the judges of safron-seamless, each trained anew from every seed, all with one schedule:
#
#     benchmarks/ablation.sh DATA OUT [STEPS [NAME...]]         SEEDS="0 1 2" unless set; every NAME below unless given
#     python benchmarks/seams.py DATA tile=OUT/tile-0.onnx tile=OUT/tile-1.onnx overlap0=OUT/overlap0-0.onnx@0 ... --tile 64
#
# tile, patch, overlap0: the paper's recipe at its small size, judged by stitched tiles, by single patches, and by single
# patches that do not overlap (render that one with @0). scales, classes: safron-seamless at its small size, judged by two
# patch judges or by one that names each pixel's label; with +diffaugment through random changes of colour and place.
# DATA is EBHI-Seg's frames; they are prepared once. NAME-SEED is trained seed after seed, so that a script that was
# stopped early has whole sets of seeds. Started again it goes on where it was, and refuses another STEPS.
set -euo pipefail
data=$1 out=$2 steps=${3:-2200}
shift $(($# < 3 ? $# : 3))
[ $# -gt 0 ] || set -- tile patch overlap0 scales classes scales+diffaugment classes+diffaugment

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
    safron-train fit "$data" "$run" "$@" --seed "$seed" --device cpu --threads 2 --steps "$steps"
    safron-train export "$run/checkpoint.pt" "$run.onnx"
}

settings() { # NAME: a file of the settings of a seamless recipe
    local augment=
    case $1 in *+diffaugment) augment='"color", "translation"' ;; esac
    echo "{\"judge\": \"${1%+*}\", \"diffaugment\": [$augment]}" >"$out/$1.json"
    echo "$out/$1.json"
}

mkdir -p "$out"
for seed in ${SEEDS:-0 1 2}; do
    for name in "$@"; do
        case $name in
        tile) train "$name" "$seed" --preset safron --size small ;;
        patch) train "$name" "$seed" --preset safron --size small --discriminator patch ;;
        overlap0) train "$name" "$seed" --preset safron --size small --discriminator patch --overlap 0 ;;
        scales* | classes*) train "$name" "$seed" --preset safron-seamless --size small --config "$(settings "$name")" ;;
        *)
            echo "$name is not one of tile, patch, overlap0, scales, classes, scales+diffaugment, classes+diffaugment" >&2
            exit 2
            ;;
        esac
    done
done
