"""Pictures as files: what every kind's preview becomes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""uint8 (H, W), or (H, W, 3)."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Files of one picture."""
FRAME_MS = 60


def png(picture: Picture) -> bytes:
    """PNG bytes of a picture uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(picture: Picture, suffix: str) -> bytes:
    """A picture uint8 (H, W), (H, W, 3) or (H, W, 4) as one of PICTURES: PNG and WebP without loss, JPEG of quality 95,
    which has no transparency: white shows through.
    """
    from PIL import Image

    image, buffer = Image.fromarray(picture), io.BytesIO()
    if suffix == ".webp":
        image.save(buffer, "WEBP", lossless=True)
    elif suffix in (".jpg", ".jpeg"):
        if image.mode == "RGBA":
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        return png(picture)
    return buffer.getvalue()


def write_mp4(frames: list[Picture], target: Path) -> None:
    """A film of frames uint8 (H, W) or (H, W, 3), there and back once: H.264, which every browser plays, with sides
    made even. Raises ImportError without imageio-ffmpeg ([video] extra).
    """
    import imageio_ffmpeg

    film = [frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, 2) for frame in frames + frames[-2:0:-1]]
    height, width = (side + side % 2 for side in film[0].shape[:2])
    writer = imageio_ffmpeg.write_frames(
        str(target), (width, height), fps=1000 / FRAME_MS, codec="libx264", quality=8, macro_block_size=2
    )
    writer.send(None)
    for frame in film:
        even = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")
        writer.send(np.ascontiguousarray(even))
    writer.close()


def gif(frames: list[Picture]) -> bytes:
    """An endless animation of frames uint8 (H, W) or (H, W, 3), there and back."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames + frames[-2:0:-1]]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)
    return buffer.getvalue()
