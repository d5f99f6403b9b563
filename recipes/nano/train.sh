#!/usr/bin/env bash
# From data to yolo9000-nano: trains the classifier, the detector in three stages, two teachers of twice its width, and two students;
# measures them.
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

mean() { # mean NAME STAGE...: the mean of the stages' weights, unless it is there
    local name=$1
    shift
    [ -e "$runs/$name/model.safetensors" ] && return
    mkdir -p "$runs/$name"
    (cd "$runs" && python "$here/mean.py" "$name/model.safetensors" "${@/%//model.safetensors}")
}

stage classifier classifier train-classifier "${classification[@]}"
joint=(train-joint "${detection[@]}" -c "$imagenet" "${mosaic[@]}")
further=("${joint[@]}" -c "tiny-imagenet:$data/tiny-imagenet-200-part.tar" --weights "$runs/joint/model.safetensors")
stage joint joint "${joint[@]}" --weights "$runs/classifier/model.safetensors"
stage settle settle "${further[@]}"
[ -e "$runs/boxes.h5" ] || python "$here/boxes.py" "$imagenet" "$runs/joint/model.safetensors" "$runs/boxes.h5"
# The photos that people drew boxes on are named twice, so that they are nearly half of all.
stage boxed settle "${further[@]}" "${detection[@]}" -d "pack:$runs/boxes.h5" --set max_steps=1100

# Students begin at the mean of the last three, which also draws boxes on the labelled photos, at larger sizes.
model="$runs/mean/model.safetensors"
mean mean joint settle boxed
[ -e "$runs/more-boxes.h5" ] || python "$here/boxes.py" "$imagenet" "$model" "$runs/more-boxes.h5" --sizes 288 352
all=(train-joint "${detection[@]}" "${detection[@]}" -d "pack:$runs/more-boxes.h5" "${classification[@]}" "${mosaic[@]}")
# Twice the filters of every convolution but the last.
awk -F= '/^filters=/ && $2 != 9443 { $0 = "filters=" 2 * $2 } { print }' "$here/../../yolo9000/cfgs/yolo9000-nano.cfg" >"$runs/teacher.cfg"
wide=(--model "$runs/teacher.cfg")
teachers=(--teacher "$model")
for seed in 0 1; do
    stage "teacher$seed-classifier" classifier train-classifier "${classification[@]}" "${wide[@]}" --seed $seed --max-steps 2370
    stage "teacher$seed" joint "${all[@]}" "${wide[@]}" --seed $seed --weights "$runs/teacher$seed-classifier/model.safetensors" \
        --max-steps 2370 --set ema=0.999 --set data.balance=true
    teachers+=(--teacher "$runs/teacher$seed/model.safetensors")
done
for seed in 0 1; do
    stage "student$seed" student "${all[@]}" --model "$model" "${teachers[@]}" --seed $seed --set loss.teacher_scale=$((1 + seed))
done
# Small steps, for a CPU: from the mean of the students, with that and the weights that they began at as the third teacher.
mean students student0 student1
mean third student0 student1 mean
stage further student "${all[@]}" --model "$runs/students/model.safetensors" "${teachers[@]:2}" --teacher "$runs/third/model.safetensors" \
    --set data.draw=loader --set data.workers=1 --size 320 --size 352 --size 384 --size 416 --batch-size 16 --max-steps 1500 --lr 0.0005 \
    --set optim.burn_in=100 --set loss.teacher_scale=2
for name in mean teacher0 teacher1 student0 student1 further; do
    yolo9000 evaluate "voc:$data/voc-mini" "coco:$data/coco-mini" "imagenet:$data/imagenet-mini" \
        --model "$runs/$name/model.safetensors" --out "$runs/evaluation/$name"
done
