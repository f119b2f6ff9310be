"""Does the GPU compute what it should? Short calculations with known results; `environment.check` runs them."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from helpers import machine

if TYPE_CHECKING:
    import torch

TOLERANCE = 0.01
MEND = {
    "PyTorch": "PyTorch is absent or damaged: on Colab delete the runtime, elsewhere run `make lab`",
    "Triton": "restart the session; if it stays, use the newest Colab runtime, or the one before it",
    "bitsandbytes": "run environment.install(), then restart the session",
    "matmul": "delete the runtime and take another: this GPU or its driver is faulty",
}


class Probe(NamedTuple):
    """One thing that was looked at: what it shows, whether it came out right, and what to do if not."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        mark = "[OK] " if self.ok else "[FIX]"
        return f"{mark} {self.name:<20} {self.detail}" + (f"  ->  {self.fix}" if self.fix else "")


def triton_kernel(device: str = "cuda") -> str:
    """Compile and run a kernel that doubles 1000 numbers. Unsloth's training kernels need the same compiler."""
    import torch
    import triton
    import triton.language as tl

    # A kernel's names are looked up among the globals of the file that defines it.
    globals()["tl"] = tl

    @triton.jit
    def double(source, target, count, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        tl.store(target + at, 2 * tl.load(source + at, mask=inside), mask=inside)

    numbers = torch.arange(1000.0, device=device)
    doubled = torch.empty_like(numbers)
    double[(4,)](numbers, doubled, 1000, BLOCK=256)
    assert torch.equal(doubled, 2 * numbers), "the kernel's result is wrong"
    return f"Triton {triton.__version__} compiled and ran a kernel"


def four_bit_matmul(device: str = "cuda") -> str:
    """A product with an NF4 matrix against the product with the same matrix unpacked."""
    import bitsandbytes as bnb
    import torch

    torch.manual_seed(0)
    weight = torch.randn(256, 128, device=device, dtype=torch.float16)
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4")
    unpacked = bnb.functional.dequantize_4bit(packed, state)
    # One row takes another kernel than several.
    for rows in (1, 8):
        x = torch.randn(rows, 128, device=device, dtype=torch.float16)
        product = bnb.matmul_4bit(x, packed.t(), quant_state=state)
        expected = x.float() @ unpacked.float().t()
        error = (product.float() - expected).norm() / expected.norm()
        assert error < TOLERANCE, f"{rows} rows are off by {error:.1%}"
    return f"bitsandbytes {bnb.__version__} multiplies in 4 bits as it should"


def finite_matmul(dtype: "torch.dtype", device: str = "cuda") -> str:
    """A product in 16 bits: finite, and near the same product in float32."""
    import torch

    torch.manual_seed(0)
    a, b = torch.randn(2, 256, 256, device=device)
    product = (a.to(dtype) @ b.to(dtype)).float()
    error = (product - a @ b).norm() / (a @ b).norm()
    assert product.isfinite().all() and error < TOLERANCE, f"off by {error:.1%}"
    return f"{str(dtype).removeprefix('torch.')} products are right to {error:.2%}"


def attempt(name: str, probe: Callable[..., str], *arguments: object) -> Probe:
    """Run one probe. Whatever it raises is the finding: a broken package fails in many ways."""
    try:
        return Probe(name, True, probe(*arguments))
    except Exception as error:  # noqa: BLE001
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return Probe(name, False, reason, MEND[name.split()[0]])


def run(device: str = "cuda") -> list[Probe]:
    """All probes. bfloat16 is tried where the GPU claims it."""
    loaded = attempt("PyTorch", import_module, "torch")
    if not loaded.ok:
        return [loaded]
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        unseen = machine.why_unseen()
        return [Probe("GPU in PyTorch", False, unseen.why, unseen.todo)]
    found = [
        attempt("Triton kernel", triton_kernel, device),
        attempt("bitsandbytes 4-bit", four_bit_matmul, device),
        attempt("matmul float16", finite_matmul, torch.float16, device),
    ]
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        found.append(attempt("matmul bfloat16", finite_matmul, torch.bfloat16, device))
    return found
