#!/usr/bin/env bash
# Makes .venv from the frozen list (no dependency resolution) and installs the project into it, editable. Does nothing when up to date.
# GPU=1: the list for NVIDIA GPUs, with CUDA builds.
#     VENV=folder PYTHON=/path/to/python3.12 requirements/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
LIST=requirements/cpu.txt
if [ "${GPU:-0}" = 1 ]; then
    LIST=requirements/gpu.txt
    # A folder of wheels with a CPU build of torch would win over the CUDA build.
    unset PIP_FIND_LINKS
    export PIP_CONFIG_FILE=/dev/null
fi
STAMP=$VENV/.installed
unset PYTHONDONTWRITEBYTECODE  # without bytecode a run takes twice as long to start, every time

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
tested() { case "$(version "$1")" in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac; }
stop() {
    echo "setup: $1" >&2
    exit 2
}
if [ -n "${PYTHON:-}" ]; then
    [ -n "$(version "$PYTHON")" ] || stop "$PYTHON does not run: install it, or say where it is: make setup PYTHON=/path/to/python3.12"
    [ ! -x "$VENV/bin/python" ] || [ "$(version "$VENV/bin/python")" = "$(version "$PYTHON")" ] ||
        stop "$VENV is of Python $(version "$VENV/bin/python"): remove it, or name another folder: VENV=.venv-$(version "$PYTHON")"
fi

wanted=$(cat "$LIST" pyproject.toml requirements/setup.sh | sha256sum | cut -d' ' -f1)
[ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && exit 0

if [ -z "${PYTHON:-}" ]; then
    for PYTHON in "$VENV/bin/python" python3.11 python3.12 python3.13 python3; do tested "$PYTHON" && break; done
    tested "$PYTHON" || stop "Python 3.11, 3.12 or 3.13 is needed: install one, or say where it is: make setup PYTHON=/path/to/python3.12"
fi
tested "$PYTHON" || echo "setup: Python $(version "$PYTHON") is not tested" >&2
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"

pip() { "$VENV/bin/python" -m pip "$@"; }
with_pip() { pip install --quiet --disable-pip-version-check --no-deps --no-compile "$@"; }
# uv looks where pip looks: it knows none of pip's settings by itself. It takes commas where pip takes blanks.
setting() { pip config get "global.$1" 2>/dev/null || true; }
listed() { tr -s ' \n' ',,' <<<"$1" | sed 's/^,//; s/,$//'; }
with_uv() {
    UV_FIND_LINKS=${UV_FIND_LINKS:-$(listed "${PIP_FIND_LINKS:-$(setting find-links)}")} \
        UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(setting index-url)}} \
        SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-$(setting cert)}} \
        uv pip install --quiet --python "$VENV/bin/python" --no-deps "$@"
}
# Where uv does not find a package (an index that only pip knows), pip may.
install() { { command -v uv >/dev/null && with_uv "$@" 2>/dev/null; } || with_pip "$@"; }

installed() {
    set -- "$VENV"/lib/python*/site-packages/*.dist-info
    [ -e "$1" ] || shift
    echo "$(($# < packages ? $# : packages)) of $packages packages are installed (downloads come first)"
}
imported() { echo "still compiling"; }
# What a long step has done so far: on a terminal a line that changes, elsewhere a line every 30 seconds.
progress() {
    local began=$SECONDS next=${EVERY:-30} said
    while sleep 1 && kill -0 $$ 2>/dev/null; do
        said="setup: $("$1"), $((SECONDS - began)) s"
        if [ -t 2 ]; then
            printf '\r\033[K%s' "$said" >&2
        elif [ $((SECONDS - began)) -ge "$next" ]; then
            echo "$said" >&2
            next=$((next + ${EVERY:-30}))
        fi
    done
}
begin() {
    progress "$1" &
    teller=$!
}
end() {
    [ -n "${teller:-}" ] || return 0
    kill "$teller" 2>/dev/null || true
    wait "$teller" 2>/dev/null || true
    teller=
    [ ! -t 2 ] || printf '\r\033[K' >&2
}
trap end EXIT

packages=$(grep -cv '^#' "$LIST")
echo "setup: installing $packages pinned packages into $VENV ..."
begin installed
torch=$(grep '^torch==' "$LIST")
have_torch() { "$VENV/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${torch:7:6}')" 2>/dev/null; }
# Of the index's torch, a CUDA build with 3 GB of libraries, the CPU half is used; taken where no CPU wheel is in reach.
index_torch() {
    [ "$("$VENV/bin/python" -c 'import sys; print(sys.version_info[1])')" != 11 ] || return 1
    echo "setup: no wheel of $torch was found: installing the package index's torch and its libraries ..."
    pip install --quiet --disable-pip-version-check "${torch%+cpu}"
}
have_torch || install "$torch" 2>/dev/null || install --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null || index_torch || {
    echo "setup: no wheel of $torch was found where pip looks, nor at https://download.pytorch.org/whl/cpu." >&2
    echo "setup: download it, then run: PIP_FIND_LINKS=/folder/with/the/wheel make setup" >&2
    exit 1
}
grep -v '^torch==' "$LIST" >"$VENV/.without-torch.txt"
install -r "$VENV/.without-torch.txt"
with_pip --no-build-isolation --ignore-requires-python --editable .  # the matrix tries Pythons before they are allowed
end
# Bytecode of what a run imports. All of 3 GB of packages would take minutes.
echo "setup: compiling what a run imports ..."
begin imported
"$VENV/bin/python" requirements/import_all.py
end
echo "$wanted" >"$STAMP"
echo "setup: done ($("$VENV/bin/igpo" --version)); to use its commands: source $VENV/bin/activate"
