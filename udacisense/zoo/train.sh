#!/usr/bin/env bash
# Train every model that ships: baseline, p1, p2 with several seeds, and the cascade of p2 (the first seed) and p1. Each command goes
# on where it was stopped.
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
# VIEWS, EPOCHS_* and SEEDS are those of the models that ship; a CPU needs days for them. EPOCHS_P2=60 VIEWS=16 is a night.
# FAST=1 is one view, one epoch and one seed: a try of every command, in minutes on a few images.
# DRY=--dry-run says what it would take, and makes nothing.
#
# OUT/zoo has baseline, p1, tiny (p2 of the first seed) and the cascade, laid out as they ship, but for their cards.
set -euo pipefail
out=${1:?give a folder for the runs}
shift
given=("$@" ${DRY:+"$DRY"})
read -ra seeds <<<"${SEEDS:-${FAST:+0}}"
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1 2)

taught=(--data "$DATA" --teacher "$TEACHER" --auxiliary-teacher "$GENERAL" --temperature 2 --alpha 1
    --transfer "$REST" --mix 0.75 --views "${VIEWS:-${FAST:-64}}" --ema 0.998)

udacisense train --model baseline --init "$INIT_224" "${taught[@]}" --transfer-ratio 0.4 --batch-size 256 --lr 1e-3 \
    --weight-decay 0.02 --epochs "${EPOCHS_BASELINE:-${FAST:-185}}" -o "$out/baseline" "${given[@]}"

baseline=${DRY:+baseline} # a dry run has made none: the one that ships stands in
compress=(udacisense compress --baseline "${baseline:-$out/baseline/artifact}" "${taught[@]}")

"${compress[@]}" --pipeline p1 --student-init "$INIT_128" --transfer-ratio 0.4 --batch-size 256 --lr 1e-3 \
    --weight-decay 0.02 --epochs "${EPOCHS_P1:-${FAST:-225}}" -o "$out/p1" "${given[@]}"

for seed in "${seeds[@]}"; do
    p2=(--student-init none --transfer-ratio 0.25 --batch-size 512 --lr 0.012 --weight-decay 0.01
        --epochs "${EPOCHS_P2:-${FAST:-540}}" --seed "$seed")
    "${compress[@]}" --pipeline p2 "${p2[@]}" -o "$out/p2-$seed" "${given[@]}"
    int8=$out/p2-int8-$seed
    if [ -z "${DRY:-}" ] && [ ! -d "$int8" ]; then
        # The distilled step is recognised in the copy and taken from there.
        rm -rf "$int8.partial"
        cp -r "$out/p2-$seed" "$int8.partial"
        mv "$int8.partial" "$int8"
    fi
    "${compress[@]}" --pipeline p2-int8 "${p2[@]}" -o "$int8" "${given[@]}"
done

[ -z "${DRY:-}" ] || exit 0
for made in baseline:baseline p1:p1 "tiny:p2-${seeds[0]}"; do
    run=$out/${made#*:} kept=$out/zoo/${made%%:*}
    mkdir -p "$kept"
    cp "$run"/artifact/* "$kept"
    [ ! -f "$run/result.json" ] || cp "$run/result.json" "$kept"
    sed -i "s/^\( *\"name\": \)\"p2\"/\1\"tiny\"/" "$kept"/*.json
done

DATA="$DATA" "$(dirname "$0")/recipes.sh" "$out"/zoo/{baseline,p1,tiny}
udacisense cascade "$out/zoo/tiny" "$out/zoo/p1" --data "$DATA" -o "$out/zoo/cascade"
