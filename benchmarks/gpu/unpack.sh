#!/usr/bin/env bash
# On the other machine: unpacks the parts of benchmarks/gpu/pack.sh that lie beside this file, links NVIDIA's libraries of that machine
# where they were left out, and compiles bytecode, which saves 25 s at each start.
set -euo pipefail
cd "$(dirname "$0")"; ROOT=@ROOT@; NVIDIA=@NVIDIA@; started=$(date +%s); chmod +x zstd; mkdir -p "$(dirname $ROOT)"
cat part_* | LD_LIBRARY_PATH=$PWD ./zstd -q -d --long=27 -c | tar -xf - -C "$(dirname $ROOT)"
if [ $NVIDIA = theirs ]; then
    # Not from a folder that has one called nvidia: it would be taken for the package.
    libraries=$(cd / && python3 -c 'import nvidia.cudnn; print(list(nvidia.__path__)[0])')
    for library in cu13 cudnn cusparselt nvshmem; do
        [ -d "$libraries/$library" ] || { echo "unpack: $libraries has no $library: pack with NVIDIA=ours" >&2; exit 1; }
        ln -sfn "$libraries/$library" "$ROOT/py/lib/python3.11/site-packages/nvidia/$library"
    done
fi
prefix=$(cat $ROOT/python_prefix); mkdir -p "$(dirname "$prefix")"; [ -e "$prefix" ] || ln -sfn $ROOT/py "$prefix"
unset PYTHONDONTWRITEBYTECODE
$ROOT/run python -m compileall -q -j 0 $ROOT/py/lib/python3.11 $ROOT/src >/dev/null 2>&1 || true # some files are templates
echo "unpack: done in $(($(date +%s) - started)) s"
