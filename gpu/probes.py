"""Run the probes of `helpers/setup/probes.py` on the GPU, and see that the T4 mode holds.

`COURSE_T4=1 python gpu/probes.py`
"""

from dataclasses import asdict

import common

from helpers import models  # noqa: F401  isort: skip  (Unsloth first; sets the T4 mode)

import torch

from helpers.setup import environment


def t4_mode(failures: list[str]) -> dict:
    """What PyTorch and Unsloth say of this GPU in T4 mode, and whether memory beyond the limit is refused."""
    from unsloth import is_bfloat16_supported
    from unsloth.utils.attention_dispatch import select_attention_backend

    given = {}
    for gib in (common.LIMIT_GIB - 0.5, common.LIMIT_GIB + 0.1):
        try:
            given[f"{gib:.2f} GiB"] = bool(
                torch.empty(int(gib * common.GIB), dtype=torch.uint8, device="cuda").numel()
            )
        except torch.cuda.OutOfMemoryError:
            given[f"{gib:.2f} GiB"] = False
        torch.cuda.empty_cache()
    found = {
        "given": given,
        "bf16": torch.cuda.is_bf16_supported() or is_bfloat16_supported(),
        "flash_attention": torch.backends.cuda.flash_sdp_enabled(),
        "cudnn_attention": torch.backends.cuda.cudnn_sdp_enabled(),
        # Of batches without padding, and with it.
        "unsloth_attention": [select_attention_backend(packed) for packed in (True, False)],
    }
    if list(given.values()) != [True, False] or found["bf16"]:
        failures.append(f"T4 mode: {found}")
    plain = found["unsloth_attention"] == ["sdpa", "sdpa"]
    if found["flash_attention"] or found["cudnn_attention"] or not plain:
        failures.append(f"T4 mode: {found}")
    return found


def main() -> None:
    failures: list[str] = []
    mode = t4_mode(failures)
    report = environment.check(probe=True)
    found = [probe._asdict() for probe in report.probes]
    failures += [f"{probe['name']}: {probe['detail']}" for probe in found if not probe["ok"]]
    if not found:
        failures.append("no probe ran")
    differing = [asdict(row) for row in report.rows if not row.ok]
    content = {"probes": found, "t4_mode": mode, "machine": report.machine, "differing": differing}
    common.save("probes", content | {"failures": failures})
    common.table([["probe", "ok", "detail"], *([p["name"], p["ok"], p["detail"]] for p in found)])
    print(mode)
    common.finish(failures)


if __name__ == "__main__":
    main()
