#!/usr/bin/env bash
# Train every model that ships: baseline, p1, p2 with seeds 0, 1 and 2, and the cascade of p2 (seed 0) and p1. Each command goes on where it was stopped.
#
#   DATA=household REST=cifar100_rest TEACHER=lite0_10 GENERAL=lite0_100 INIT_224=a.safetensors INIT_128=b.safetensors \
#       udacisense/zoo/train.sh OUT [--device cuda --precision bf16]
#
# DATA     {train,test}/<class>/*, the ten household classes
# REST     other images, used without labels
# TEACHER  an artifact's folder or an .onnx file that takes pixels 0-255, and answers DATA's classes
# GENERAL  likewise, with classes of its own; on a GPU take artifacts, an .onnx teacher answers on the CPU
# INIT_*   MobileNetV3-Small's weights at the start, at 224 px (whole) and at 128 px (its features)
#
# VIEWS and EPOCHS_* are those of the models that ship; a CPU needs days for them. EPOCHS_P2=60 VIEWS=16 is a night.
# DRY=--dry-run says what it would take.
set -euo pipefail
out=${1:?give a folder for the runs}
shift
given=("$@" ${DRY:+"$DRY"})

taught=(--data "$DATA" --teacher "$TEACHER" --auxiliary-teacher "$GENERAL" --temperature 2 --alpha 1
    --transfer "$REST" --mix 0.75 --views "${VIEWS:-64}" --ema 0.998)

udacisense train --model baseline --init "$INIT_224" "${taught[@]}" --transfer-ratio 0.4 --batch-size 256 --lr 1e-3 \
    --weight-decay 0.02 --epochs "${EPOCHS_BASELINE:-185}" -o "$out/baseline" "${given[@]}"

baseline=${DRY:+baseline} # a dry run has made none: the one that ships stands in
compress=(udacisense compress --baseline "${baseline:-$out/baseline/artifact}" "${taught[@]}")

"${compress[@]}" --pipeline p1 --student-init "$INIT_128" --transfer-ratio 0.4 --batch-size 256 --lr 1e-3 \
    --weight-decay 0.02 --epochs "${EPOCHS_P1:-225}" -o "$out/p1" "${given[@]}"

for seed in 0 1 2; do
    p2=(--student-init none --transfer-ratio 0.25 --batch-size 512 --lr 0.012 --weight-decay 0.01
        --epochs "${EPOCHS_P2:-540}" --seed "$seed")
    "${compress[@]}" --pipeline p2 "${p2[@]}" -o "$out/p2-$seed" "${given[@]}"
    if [ -z "${DRY:-}" ]; then
        # The distilled step is recognised in the copy and taken from there.
        [ -d "$out/p2-int8-$seed" ] || cp -r "$out/p2-$seed" "$out/p2-int8-$seed"
        "${compress[@]}" --pipeline p2-int8 "${p2[@]}" -o "$out/p2-int8-$seed" "${given[@]}"
    fi
done

if [ -z "${DRY:-}" ]; then
    udacisense cascade "$out/p2-0/artifact" "$out/p1/artifact" --data "$DATA" -o "$out/cascade"
fi
