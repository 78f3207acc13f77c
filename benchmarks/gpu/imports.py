"""Imports everything that a run on a GPU imports, also on a machine without a GPU, and names what is missing.

    python -m benchmarks.gpu.imports        # exit code 1 where something is missing

vLLM decides by the driver which of its modules it loads, and CUDA libraries are linked to the driver's own.
Where there is no driver, a library of the same name stands in for it whose functions all fail, and vLLM is
told that it is on an H100. Needs gcc and nm there.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DRIVER = "libcuda.so.1"
MADE_UP = "IGPO_MADE_UP_GPU"
"""Environment variable of the process that sees the stand-in."""
OWN = ("algorithms", "envs", "pipeline", "benchmarks")
WALKED = (
    "vllm.v1.worker",
    "vllm.v1.sample",
    "vllm.v1.engine",
    "vllm.v1.core",
    "vllm.distributed.weight_transfer",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.warmup",
)
"""Packages of vLLM whose modules are all imported, as are those of `OWN`."""
MODULES = (
    "vllm",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
    "vllm.v1.attention.backends.flash_attn",
    "vllm.v1.attention.backends.triton_attn",
    "vllm.v1.attention.backends.flashinfer",
    "vllm.vllm_flash_attn.flash_attn_interface",
    "vllm._custom_ops",
    "torch.nn.attention.varlen",
    "mlflow",
    "duckdb",
    "bm25s",
    "gguf",
)
LEFT_OUT = re.compile(
    r"tpu|xpu|rocm|hpu|_cpu|\.cpu|modelexpress|ec_connector|elastic|runai|tensorizer|bitsandbytes"
)
"""Modules of vLLM for other hardware, and for services and formats that nothing here uses."""


def has_driver() -> bool:
    with contextlib.suppress(OSError):
        ctypes.CDLL(DRIVER)
        return True
    return False


def stand_in(folder: Path) -> Path:
    """Compiles a driver library that has every function which torch, vLLM and triton ask it for."""
    asked: set[str] = set()
    for package in ("torch", "vllm", "triton"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed")
        for library in Path(spec.origin).parent.rglob("*.so*"):
            symbols = subprocess.run(
                ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=False
            ).stdout
            asked |= set(re.findall(r" U (cu[A-Z]\w*)$", symbols, re.MULTILINE))
    source, made = folder / "stand_in.c", folder / DRIVER
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in sorted(asked)))
    options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{DRIVER}", "-o", str(made), str(source)]
    subprocess.run(["gcc", *options], check=True)
    return made


def pretend() -> None:
    """Makes triton and vLLM believe in an H100."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from triton.backends.nvidia.driver import CudaDriver  # ty: ignore[import-not-found]

    CudaDriver.is_active = staticmethod(lambda: True)
    import vllm.platforms as platforms
    from vllm.platforms.cuda import NonNvmlCudaPlatform
    from vllm.platforms.interface import DeviceCapability

    class MadeUp(NonNvmlCudaPlatform):
        @classmethod
        def get_device_capability(cls, *args, **kwargs):
            return DeviceCapability(9, 0)

        @classmethod
        def get_device_name(cls, *args, **kwargs):
            return "NVIDIA H100 80GB HBM3"

        @classmethod
        def get_device_total_memory(cls, *args, **kwargs):
            return 80 << 30

    platforms._current_platform = MadeUp()


def module_names(walked: tuple[str, ...], modules: tuple[str, ...]) -> list[str]:
    """The names to import: `modules`, and every module of the packages `walked`."""
    names = list(modules)
    for package in walked:
        names.append(package)
        with contextlib.suppress(ImportError):  # it is imported, and reported, with the others
            path = importlib.import_module(package).__path__
            names += [
                found.name for found in pkgutil.walk_packages(path, f"{package}.", onerror=lambda _: None)
            ]
    return [name for name in names if not LEFT_OUT.search(name)]


def missing_of(names: list[str]) -> dict[str, str]:
    """What each module lacks. Other failures of an import, such as that of a call to the driver, are none."""
    missing = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing[name] = str(error)
        except Exception as error:  # whatever a package raises while it looks for hardware
            if re.search("No module named|cannot open shared object|is not installed", str(error)):
                missing[name] = str(error).splitlines()[0]
    return missing


def check(*, engine: bool) -> int:
    """Imports everything in this process; returns the number of modules that lack something.

    Args:
        engine: whether vLLM's CUDA engine is imported too.
    """
    if os.environ.get(MADE_UP):
        pretend()
    names = module_names((*WALKED, *OWN), MODULES) if engine else module_names(OWN, ())
    missing = missing_of(names)
    for name, lack in missing.items():
        print(f"{name}: {lack}")
    if not engine:
        what = "with builds for CPUs, so vLLM's engine for GPUs was not tried (make setup GPU=1)"
    else:
        what = "with a made-up GPU" if os.environ.get(MADE_UP) else "with this machine's driver"
    print(f"{len(names)} modules imported {what}, {len(missing)} lack something")
    return len(missing)


def main() -> int:
    import torch

    if torch.version.cuda is None:
        return int(check(engine=False) > 0)
    if os.environ.get(MADE_UP) or has_driver():
        return int(check(engine=True) > 0)
    with tempfile.TemporaryDirectory() as folder:
        stand_in(Path(folder))
        paths = [folder, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        environment = os.environ | {"LD_LIBRARY_PATH": ":".join(paths), MADE_UP: "1"}
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.imports"], env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
