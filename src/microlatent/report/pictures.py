"""Pictures of a page: figures of the run folder made smaller, as WebP in the page itself, all of them within one budget."""

from __future__ import annotations

import base64
import functools
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from microlatent.report.blocks import Picture

QUALITY = 80
LEAST_PX = 240  # a picture smaller than this shows nothing
SHRINK = 0.8
USUAL = 0.05  # bytes of a picture in the page per square of its longer side, as most figures have


@dataclass
class Album:
    """Collect the pictures of a page, then encode them: first all at full size, smaller ones if they exceed the budget."""

    max_px: int  # longer side of a picture
    budget: int = 5_000_000  # bytes of all pictures in the page
    waiting: list[tuple[Path, Picture]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, path: Path, alt: str, caption: str = "") -> Picture:
        """Return a picture of a file. Those added first are kept where the budget does not suffice for all."""
        picture = Picture(alt=alt, caption=caption)
        self.waiting.append((path, picture))
        return picture

    def develop(self) -> None:
        """Fill in all pictures."""
        usual = (self.budget / max(1, len(self.waiting)) / USUAL) ** 0.5
        side, done = max(LEAST_PX, min(self.max_px, int(usual))), []
        while True:
            with ThreadPoolExecutor(4) as pool:  # Pillow works outside Python's lock
                done = list(pool.map(lambda entry, px=side: self._encoded(entry[0], px), self.waiting))
            size = sum(len(one[0]) for one in done)
            if size <= self.budget or side <= LEAST_PX:
                break
            side = max(LEAST_PX, int(side * min(SHRINK, (self.budget / size) ** 0.5)))
        spent = 0
        for (_, picture), (code, width, height) in zip(self.waiting, done, strict=True):
            spent += len(code)
            if not code:
                picture.caption = f"{picture.caption} This file cannot be read as an image."
            elif spent > self.budget:
                picture.caption = f"{picture.caption} Left out: the page would be too large."
            else:
                picture.src, picture.width, picture.height = f"data:image/webp;base64,{code}", width, height

    @staticmethod
    def _encoded(path: Path, max_px: int) -> tuple[str, int, int]:
        try:
            return encoded(path, path.stat().st_mtime_ns, max_px)
        # Pillow tells of a damaged PNG by a SyntaxError.
        except (OSError, ValueError, SyntaxError):
            return "", 0, 0


@functools.lru_cache(512)
def encoded(path: Path, changed_ns: int, max_px: int) -> tuple[str, int, int]:
    """Return an image as base64 of WebP with its width and height; kept for the next page as long as the file is the same."""
    from PIL import Image

    with Image.open(path) as image:
        # A palette or transparency is laid on white: figures are made for paper.
        if image.mode in ("RGBA", "LA", "P"):
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(ground, image)
        image = image.convert("RGB")
        if max(image.size) > max_px:
            scale = max_px / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.HAMMING, reducing_gap=1.5)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=QUALITY, method=2)
        return base64.b64encode(buffer.getvalue()).decode(), image.width, image.height
