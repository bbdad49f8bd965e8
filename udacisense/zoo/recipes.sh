#!/usr/bin/env bash
# Calibrate static int8 of artifacts anew, and keep the recipes beside their weights, as the models that ship have them:
#
#   DATA=household udacisense/zoo/recipes.sh udacisense/zoo/{baseline,p1,tiny} [--int8-method histogram]
#
# It takes some minutes a model on one core. One that was stopped is started again, and writes all of them.
set -euo pipefail
folders=()
while [ $# -gt 0 ] && [ -d "$1" ]; do
    folders+=("$1")
    shift
done
for folder in "${folders[@]}"; do
    made=$(mktemp -d)
    udacisense export "$folder" -f torchscript --precision int8-static --data "$DATA" --calibration 1000 \
        -o "$made/bundle" "$@"
    for engine in fbgemm qnnpack; do
        cp "$made/bundle/reference/torchscript-int8-static-$engine.safetensors" "$folder/static-int8-$engine.safetensors"
    done
    rm -r "$made"
done
