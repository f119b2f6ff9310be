"""A larger NVIDIA GPU made to behave like a T4, with ``COURSE_T4=1``: its code path, memory, fp16 and plain attention.

Speed stays the larger GPU's. `unsloth_first` calls both functions; without a GPU they do nothing.
"""

from helpers import presets


def before_unsloth() -> None:
    """Tell whoever asks that this GPU has a T4's compute capability and no bfloat16: Unsloth then chooses a T4's kernels.

    Unsloth asks while it is imported. Triton still compiles for the GPU that is there.
    """
    import torch

    true_capability = torch.cuda.get_device_capability
    if not torch.cuda.is_available() or getattr(true_capability, "as_a_t4", False):
        return
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver

    def capability(device=None) -> tuple[int, int]:
        return presets.T4_CAPABILITY

    capability.as_a_t4, capability.true = True, true_capability
    # Unsloth puts a cache around this function, unless it takes it for that cache.
    capability._unsloth_per_device_cache = True
    torch.cuda.get_device_capability = capability
    torch.cuda.is_bf16_supported = _no_bfloat16

    # Not before a kernel is compiled: asking begins to use the GPU, and Unsloth first chooses how memory is given out.
    def target(driver) -> GPUTarget:
        major, minor = true_capability()
        return GPUTarget("cuda", 10 * major + minor, 32)

    CudaDriver.get_current_target = target


def after_unsloth() -> None:
    """Leave PyTorch a T4's memory less a CUDA context, no bfloat16, and plain attention."""
    import torch

    if not torch.cuda.is_available():
        return
    if hasattr(torch.cuda.get_device_capability, "true"):
        from torch._dynamo.device_interface import CudaInterface

        # torch.compile too compiles for the GPU that is there.
        major, minor = torch.cuda.get_device_capability.true()
        CudaInterface.get_compute_capability = staticmethod(lambda device=None: 10 * major + minor)
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    limit = presets.T4_MEMORY_GIB - presets.CUDA_CONTEXT_GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    # A T4 has neither bf16 nor the kernels that need compute capability 8.
    torch.cuda.is_bf16_supported = _no_bfloat16
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def _no_bfloat16(*args, **kwargs) -> bool:
    return False
