#!/usr/bin/env bash
# Train every model that ships: baseline, p1, p2 with several seeds, and the cascade of p2 (the first seed) and p1. Each command goes
# on where it was stopped.
#
#   DATA=household REST=cifar100_rest TEACHER=lite0_10 GENERAL=lite0_100 INIT_224=a.safetensors INIT_128=b.safetensors \
#       udacisense/zoo/train.sh OUT [--device cuda --precision bf16]
#
# DATA     {train,test}/<class>/*, the ten household classes
# REST     other images, used without labels
# TEACHER  an artifact's folder or an .onnx file that takes pixels 0-255, and answers DATA's classes; an artifact may know more
# GENERAL  likewise, with classes of its own; on a GPU take artifacts, an .onnx teacher answers on the CPU. An artifact that is both is
#          asked once for both
# INIT_*   MobileNetV3-Small's weights at the start, at 224 px (whole) and at 128 px (its features)
#
# VIEWS, EPOCHS_* and SEEDS are those of the models that ship; a CPU needs days for them. EPOCHS_P2=60 VIEWS=16 is a night.
# FAST=1 is one view, one epoch and one seed: a try of every command, in minutes on a few images.
# DRY=--dry-run says what it would take, and makes nothing.
# BESIDE=1 trains p1 and each seed of p2 at the same time, once there is a baseline: one small network does not fill a GPU. What each
# prints is in OUT/NAME.log, and their times are those of a busy machine.
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

p1() {
    "${compress[@]}" --pipeline p1 --student-init "$INIT_128" --transfer-ratio 0.4 --batch-size 256 --lr 1e-3 \
        --weight-decay 0.02 --epochs "${EPOCHS_P1:-${FAST:-225}}" -o "$out/p1" "${given[@]}"
}

p2() { # the number of a seed
    local options=(--student-init none --transfer-ratio 0.25 --batch-size 512 --lr 0.012 --weight-decay 0.01
        --epochs "${EPOCHS_P2:-${FAST:-540}}" --seed "$1")
    "${compress[@]}" --pipeline p2 "${options[@]}" -o "$out/p2-$1" "${given[@]}"
    local int8=$out/p2-int8-$1
    if [ -z "${DRY:-}" ] && [ ! -d "$int8" ]; then
        # The distilled step is recognised in the copy and taken from there.
        rm -rf "$int8.partial"
        cp -r "$out/p2-$1" "$int8.partial"
        mv "$int8.partial" "$int8"
    fi
    "${compress[@]}" --pipeline p2-int8 "${options[@]}" -o "$int8" "${given[@]}"
}

if [ -n "${BESIDE:-}" ]; then
    mkdir -p "$out"
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
    p1 >"$out/p1.log" 2>&1 &
    for seed in "${seeds[@]}"; do p2 "$seed" >"$out/p2-$seed.log" 2>&1 & done
    for job in $(jobs -p); do wait "$job" || { tail -n 3 "$out"/*.log >&2 && exit 1; }; done
else
    p1
    for seed in "${seeds[@]}"; do p2 "$seed"; done
fi

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
