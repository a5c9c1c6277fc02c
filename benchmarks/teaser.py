"""The picture at the top of the README: a crop of an example, noisy and restored at two ends of a slider, at 3x zoom.

python -m benchmarks.teaser --model checkpoints/vit-unet-denoiser --output docs/teaser.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from modeling import ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import read_photograph
from modeling.metrics import psnr, sharpness_ratio

CAPTION_HEIGHT = 44


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--image", default="examples/rock023.png")
    parser.add_argument("--noise_level", type=float, default=25, help="of 255")
    parser.add_argument("--crop", type=int, nargs=4, default=(280, 230, 130, 130), metavar=("LEFT", "TOP", "W", "H"))
    parser.add_argument("--term", default="regional_sharpness")
    parser.add_argument("--output", default="docs/teaser.png")
    arguments = parser.parse_args()

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    clean = read_photograph(arguments.image)
    noisy = indexed_gaussian_noise(clean, arguments.noise_level / 255, 0)
    with torch.inference_mode():
        encoded = model.encode(noisy[None])
        fidelity = model.decode(encoded, {"pixel": 1.0})[0]
        sharp = model.decode(encoded, {arguments.term: 1.0})[0]

    left, top, width, height = arguments.crop
    panels = {
        f"noisy, sigma {arguments.noise_level:g}": noisy,
        "pixel loss": fidelity,
        arguments.term.replace("_", " "): sharp,
        "clean": clean,
    }
    sheet = Image.new("RGB", (len(panels) * (3 * width + 6) - 6, 3 * height + CAPTION_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for index, (name, image) in enumerate(panels.items()):
        (picture,) = ViTUNetImageProcessor().post_process(image[None])
        crop = picture.crop((left, top, left + width, top + height))
        x = index * (3 * width + 6)
        sheet.paste(crop.resize((3 * width, 3 * height), Image.Resampling.NEAREST), (x, 0))
        caption = f"{name}\n"
        if image is not clean:
            caption += f"{psnr(image, clean):.2f} dB, sharpness ratio {sharpness_ratio(image, clean):.2f}"
        draw.multiline_text((x + 2, 3 * height + 3), caption, fill="black", font=font)
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.output, optimize=True)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
