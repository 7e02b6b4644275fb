"""SageAttention and torch's attention for the self-attention of Wan 2.2 and SDXL: `make bench-attention`.

Runs on a machine with a GPU in a Python with torch and sageattention, and uses only these and the standard library.
Prints a Markdown table for docs/explanation/performance.md. The inputs are normal random numbers; SageAttention's 8-bit
arithmetic may be more or less accurate for real ones.

Sources of the shapes:
- Wan 2.2 A14B, 832x480 pixels, 81 frames: 40 heads of 128 (`dim` 5120, `num_heads` 40 in wan/configs/wan_t2v_A14B.py of
  Wan-Video/Wan2.2). Its VAE makes 21 x 60 x 104 latents of these (`vae_stride` 4, 8, 8), and its patches (1, 2, 2)
  leave 21 x 30 x 52 = 32760 tokens.
- SDXL base, 1024x1024 pixels: attention is at the second and the third resolution of its U-Net, with 640 and 1280
  channels in heads of 64 (`num_head_channels` 64 in sd_xl_base.yaml of Stability-AI/generative-models): 64 x 64 tokens
  in 10 heads, 32 x 32 in 20. A batch of 2: the positive and the negative prompt.
"""

import os
import platform
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_KERNELS = 3


def main() -> int:
    sys.path[0] = str(ROOT)  # in place of this file's folder, whose modules would shadow others
    from workers.attention_probe import Case, CudaDevice, compare, sage_kernel, sage_version

    try:
        torch, sage = import_module("torch"), sage_kernel()
    except ImportError as error:
        return _refuse(f"{sys.executable} cannot measure this: {error}")
    if not torch.cuda.is_available():
        return _refuse("torch sees no GPU")
    cases = (
        Case("Wan 2.2 A14B, 832x480x81", heads=40, length=32760, head_dim=128, dtype="bfloat16"),
        Case("SDXL 1024x1024, 64x64", heads=10, length=4096, head_dim=64, dtype="float16", batch=2),
        Case("SDXL 1024x1024, 32x32", heads=20, length=1024, head_dim=64, dtype="float16", batch=2),
    )
    device = CudaDevice(torch)
    properties = torch.cuda.get_device_properties(0)
    _say([f"{properties.name} ({properties.major}.{properties.minor}), torch {torch.__version__}, "])
    _say([f"SageAttention {sage_version()}, Python {platform.python_version()}, {os.uname().sysname}", ""])
    _say(["| self-attention | heads x width | tokens | type | torch, ms | Sage, ms | ratio | cosine |"])
    _say(["|---|---|---|---|---|---|---|---|"])
    for case in cases:
        found = compare(device, case, sage, torch.nn.functional.scaled_dot_product_attention)
        cosine = "not finite" if found.cosine is None else f"{found.cosine:.5f}"
        shape = f"{case.name} | {case.heads} x {case.head_dim} | {case.length} | {case.dtype}"
        ratio = found.reference_ms / found.ms
        _say([f"| {shape} | {found.reference_ms:.3f} | {found.ms:.3f} | {ratio:.2f} | {cosine} |"])
    return 0


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return NO_KERNELS


if __name__ == "__main__":
    sys.exit(main())
