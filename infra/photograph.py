"""Generates a photograph-like test picture: smooth sky, textured ground, sensor noise."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (1280, 853)


def write_photograph(path: Path, seed: int = 7) -> None:
    """Write a PNG of about 3 MB, whose noise compresses as badly as that of a camera."""
    width, height = SIZE
    noise = np.random.default_rng(seed)
    horizon = int(height * 0.58)
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([92, 142, 205]) + rows * np.array([150, 90, 20])
    ground = np.array([70, 92, 48]) + noise.normal(0, 18, (height, width, 1))
    pixels = np.where(np.arange(height)[:, None, None] < horizon, np.broadcast_to(sky, (height, width, 3)), ground)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((900, 90, 1040, 230), fill=(255, 236, 190))
    for left, top, spread in ((80, 300, 340), (420, 220, 420), (820, 340, 360)):
        draw.polygon([(left, horizon), (left + spread // 2, top), (left + spread, horizon)], fill=(74, 80, 104))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    grain = noise.normal(0, 5, soft.shape)
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(path)
