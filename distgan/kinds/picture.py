"""Pictures as files: what every kind's preview becomes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""uint8 (H, W), or (H, W, 3)."""

FRAME_MS = 60


def png(picture: Picture) -> bytes:
    """PNG bytes of a picture uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def gif(frames: list[Picture]) -> bytes:
    """An endless animation of frames uint8 (H, W) or (H, W, 3), there and back."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames + frames[-2:0:-1]]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)
    return buffer.getvalue()
