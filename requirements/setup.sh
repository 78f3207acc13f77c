#!/usr/bin/env bash
# Makes .venv from the frozen list (no dependency resolution) and installs the project into it, editable. Does nothing when up to date.
# GPU=1: the list for NVIDIA GPUs, with CUDA builds.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3.11}
LIST=requirements/cpu.txt
if [ "${GPU:-0}" = 1 ]; then
    LIST=requirements/gpu.txt
    # A folder of wheels with a CPU build of torch would win over the CUDA build.
    unset PIP_FIND_LINKS
    export PIP_CONFIG_FILE=/dev/null
fi
STAMP=$VENV/.installed

wanted=$(cat "$LIST" pyproject.toml requirements/setup.sh | sha256sum | cut -d' ' -f1)
[ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && exit 0

command -v "$PYTHON" >/dev/null || PYTHON=python3
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "setup: Python 3.11 is needed (found $("$PYTHON" --version 2>&1)): install it, or say which: make setup PYTHON=/path/to/python3.11" >&2
    exit 2
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
# Bytecode is compiled on first import: compiling 3 GB of packages up front costs more than it saves.
install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile "$@"; }

echo "setup: installing $(grep -cv '^#' "$LIST") pinned packages into $VENV ..."
torch=$(grep '^torch==' "$LIST")
have_torch() { "$VENV/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch') != '${torch#torch==}')" 2>/dev/null; }
have_torch || install "$torch" 2>/dev/null || install --index-url https://download.pytorch.org/whl/cpu "$torch" || {
    echo "setup: no wheel of $torch was found where pip looks, nor at https://download.pytorch.org/whl/cpu." >&2
    echo "setup: download it, then run: PIP_FIND_LINKS=/folder/with/the/wheel make setup" >&2
    exit 1
}
grep -v '^torch==' "$LIST" >"$VENV/.without-torch.txt"
install -r "$VENV/.without-torch.txt"
install --no-build-isolation --editable .
echo "$wanted" >"$STAMP"
echo "setup: done ($("$VENV/bin/igpo" --version))"
