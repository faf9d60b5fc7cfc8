#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, CUDA, a Rust toolchain and Python: builds, compares the GPU with the CPU
# backend, times SHIKE-ResNet-32 and SHIKE-ResNet-50 steps in float32 and bfloat16 beside PyTorch's, and
# takes a profile. A few minutes after the build, which downloads LLVM once.
#
#   benches/gpu/run.sh [DEVICE]      cuda (default), or vulkan or wgpu, where PyTorch is left out
#
# Leaves benches/gpu/out/: parity.txt, steps-f32.json, steps-bf16.json, torch-f32.txt, torch-bf16.txt,
# profile.txt. PYTHON names a Python with torch, torchvision and safetensors.
set -euo pipefail
cd "$(dirname "$0")/../.."

device=${1:-cuda}
out=benches/gpu/out
python=${PYTHON:-python3}
mkdir -p "$out"

cargo build --release --bin shike --features "$device"

echo "== parity with the CPU backend"
cargo test --release -p shike --features "$device" --test devices -- --nocapture |
    tee "$out/parity.txt"
grep -q "^$device: relative difference" "$out/parity.txt" || {
    echo "error: $device was not compared; is there such a device?" >&2
    exit 1
}

echo "== steps and scoring"
for precision in f32 bf16; do
    target/release/shike bench --device "$device" --precision $precision --runs 20 \
        --case step/ --case eval/ --json "$out/steps-$precision.json" ||
        echo "$precision failed" >&2
done
target/release/shike bench --device "$device" --runs 20 --case dkt/ --case balanced/ --case conv/ \
    --json "$out/parts.json"

if [ "$device" = cuda ]; then
    echo "== the same in turns with PyTorch: eager, NCHW and channels_last; autocast for bfloat16"
    for precision in f32 bf16; do
        "$python" benches/vs_torch/run.py --device cuda --precision $precision --no-report \
            --case step/ --case eval/ | tee "$out/torch-$precision.txt"
    done
fi

echo "== profile of the steps: time by kernel"
for case in step/shike-resnet32 step/shike-resnet50; do
    echo "-- $case"
    printf '\n\n\n' | CUBECL_DEBUG_OPTION=profile target/release/shike bench --device "$device" \
        --serve $case 2>&1 || true
done >"$out/profile.txt"
echo "results in $out"
