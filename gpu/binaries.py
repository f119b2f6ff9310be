"""Do PyTorch's and bitsandbytes' libraries hold machine code for a T4 (sm_75)? Needs no GPU.

`python gpu/binaries.py`, in an environment with a CUDA build of PyTorch, Triton (whose cuobjdump reads
the libraries) and bitsandbytes, such as a replica of a Colab image (`make replica`).
"""

import re
import subprocess
from collections import Counter
from pathlib import Path

import common

T4 = "sm_75"
# What bitsandbytes 0.50 calls the kernels for NF4 weights and for 8-bit Adam.
NEEDED = (
    *("kQuantizeBlockwise", "kDequantizeBlockwise", "kgemm_4bit_inference_naive"),
    *("gemm_4bit_simt", "gemm_4bit_sm75", "kOptimizerStatic8bit2StateBlockwise"),
)


def machine_code(library: Path) -> dict[str, int]:
    """How many pieces of machine code a library holds for each GPU architecture."""
    architectures = re.findall(r"\.(sm_\d+[a-z]?)\.cubin", _cuobjdump("--list-elf", library))
    return dict(sorted(Counter(architectures).items()))


def kernels(library: Path, architecture: str) -> dict[str, int]:
    """The kernels in a library for one GPU architecture: name, and for how many types and sizes it is there."""
    said = _cuobjdump("--dump-elf-symbols", "-arch", architecture, library)
    mangled = re.findall(r"STO_ENTRY\s+(\S+)", said)
    return dict(sorted(Counter(map(plain_name, mangled)).items()))


def plain_name(mangled: str) -> str:
    """The function's own name in a mangled C++ one (Itanium C++ ABI: each part after its length)."""
    at, name = re.match(r"_ZN?", mangled), mangled
    rest = mangled[at.end() :] if at else ""
    while length := re.match(r"[a-zA-Z]{0,3}?(\d+)", rest):
        start = length.end()
        name = rest[start : start + int(length[1])]
        rest = rest[start + int(length[1]) :]
        if not mangled.startswith("_ZN"):
            break
    return name


def _cuobjdump(*arguments) -> str:
    import triton

    tool = triton.knobs.nvidia.cuobjdump.path
    command = [tool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def main() -> None:
    import bitsandbytes
    import torch

    failures: list[str] = []
    torch_library = Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"
    found: dict = {
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda},
        "bitsandbytes": {"version": bitsandbytes.__version__},
    }
    found["torch"]["machine_code"] = machine_code(torch_library)
    if T4 not in found["torch"]["machine_code"]:
        failures.append(f"{torch_library.name} has no code for {T4}")
    for library in sorted(Path(bitsandbytes.__file__).parent.glob("libbitsandbytes_cuda*.so")):
        names = kernels(library, T4)
        found["bitsandbytes"][library.name] = {"machine_code": machine_code(library), T4: names}
        for part in NEEDED:
            if not any(part in name for name in names):
                failures.append(f"{library.name} has no kernel {part} for {T4}")
    common.save("binaries", found | {"failures": failures})
    rows = [["library", "kernels for a T4", "of these needed"]]
    for name, one in found["bitsandbytes"].items():
        if name.startswith("lib"):
            needed = sum(any(part in kernel for part in NEEDED) for kernel in one[T4])
            rows.append([name, sum(one[T4].values()), needed])
    common.table(rows)
    print(found["torch"])
    common.finish(failures)


if __name__ == "__main__":
    main()
