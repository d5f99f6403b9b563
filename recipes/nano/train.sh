#!/usr/bin/env bash
# From data to yolo9000-nano: trains the classifier, then the detector in three stages, and measures them.
#
#   recipes/nano/train.sh DATA [RUNS]
#
# DATA holds coco-mini, voc-mini, imagenet-mini and tiny-imagenet-200-part.tar (see README.md beside this file). RUNS, by default
# runs/nano, keeps checkpoints: called again after an interruption, the script goes on where it stopped.
set -euo pipefail
data=${1:?usage: recipes/nano/train.sh DATA [RUNS]}
runs=${2:-runs/nano}
here=$(cd "$(dirname "$0")" && pwd)
imagenet="imagenet:$data/imagenet-mini"
classification=(-c "$imagenet" -c "tiny-imagenet:$data/tiny-imagenet-200-part.tar")
mosaic=(--set "data.mosaic=tiny-imagenet-boxes:$data/tiny-imagenet-200-part.tar")
detection=(-d "coco:$data/coco-mini" -d "voc:$data/voc-mini")

# Without a GPU the loader draws the pictures, and a process more than there are cores would only wait.
loader=()
python -c 'import sys, torch; sys.exit(torch.cuda.is_available())' && loader=(--set data.draw=loader --set data.workers=2)

stage() { # stage NAME SETTINGS COMMAND...: runs a training unless its model is there, and goes on with a checkpoint that is
    local name=$1 settings=$2
    shift 2
    [ -e "$runs/$name/model.safetensors" ] && return
    local resume=()
    [ -e "$runs/$name/last.ckpt" ] && resume=(--resume)
    yolo9000 "$@" --config "$here/$settings.yaml" --out "$runs/$name" "${loader[@]}" "${resume[@]}"
}

stage classifier classifier train-classifier "${classification[@]}"
joint=(train-joint "${detection[@]}" -c "$imagenet" "${mosaic[@]}")
further=("${joint[@]}" -c "tiny-imagenet:$data/tiny-imagenet-200-part.tar" --weights "$runs/joint/model.safetensors")
stage joint joint "${joint[@]}" --weights "$runs/classifier/model.safetensors"
stage settle settle "${further[@]}"
[ -e "$runs/boxes.h5" ] || python "$here/boxes.py" "$imagenet" "$runs/joint/model.safetensors" "$runs/boxes.h5"
# The photos that people drew boxes on are named twice, so that they are nearly half of all.
stage boxed settle "${further[@]}" "${detection[@]}" -d "pack:$runs/boxes.h5" --set max_steps=1100
for name in settle boxed; do
    yolo9000 evaluate "voc:$data/voc-mini" "coco:$data/coco-mini" "imagenet:$data/imagenet-mini" \
        --model "$runs/$name/model.safetensors" --out "$runs/evaluation/$name"
done
