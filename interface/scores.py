"""What a restoration is worth beside its clean image, in numbers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from modeling.metrics import psnr, sharpness_ratio, ssim


def scores(image: Tensor, clean: Tensor) -> tuple[float, float, float]:
    """PSNR in dB, SSIM, sharpness ratio."""
    return psnr(image, clean), ssim(image, clean), sharpness_ratio(image, clean)


def scores_table(rows: Mapping[str, tuple[float, float, float]]) -> str:
    """Markdown. The last row is the present setting, the one before it the fidelity corner, which sets the price."""
    lines = ["| | PSNR | SSIM | sharpness ratio |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {p:.2f} dB | {s:.3f} | {r:.3f} |" for name, (p, s, r) in rows.items()]
    *_, corner, setting = rows.values()
    price = round(corner[0] - setting[0], 2) + 0.0  # + 0.0: no "-0.00"
    lines.append(f"\n**Price of your setting: {price:+.2f} dB.** A sharpness ratio of 1 is right, under 1 is blurred.")
    return "\n".join(lines)
