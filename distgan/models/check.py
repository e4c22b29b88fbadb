"""Whether networks can work on images of a size. Needs no torch for the families' limits."""

from __future__ import annotations

from distgan.config import ConfigError, ModelConfig
from distgan.models.pretrained import check_pretrained, needs_trial
from distgan.models.sides import Resolution, can_be_doubled_to, nearest_to, sides
from distgan.registry import NETWORKS


def allowed_resolutions(name: str) -> tuple[int, ...] | None:
    """Sides of the square images, in pixels, that family `name` can make; None = any."""
    allowed: tuple[int, ...] | None = NETWORKS[name].resolutions
    return allowed


def check_models(model: ModelConfig, *, channels: int, resolution: Resolution, n_classes: int = 0) -> None:
    """Refuse networks that cannot work on such images, before any worker starts. Raises ConfigError.

    The families' limits are checked without building anything; own classes, further arguments and pretrained weights
    of the user's are tried out with three samples.
    """
    check_family(model, resolution=resolution, n_classes=n_classes)
    check_pretrained(model, channels=channels)
    if model.pretrained != "none" and not isinstance(resolution, int):
        raise ConfigError(
            f"model.pretrained = {model.pretrained!r}: its network was trained on square images; allowed for others: "
            "none, or one number for data.resolution"
        )
    own = model.generator is not None or model.discriminator is not None or model.g_args or model.d_args
    if own or needs_trial(model):
        from distgan.models.build import try_out

        shape = (channels, *sides(resolution))
        try_out(model, shape=shape, n_classes=n_classes, channels=channels, resolution=resolution)


def check_labels(model: ModelConfig, n_classes: int) -> None:
    """Refuse a conditioning that the data has no classes for (n_classes, 0 = no labels). Raises ConfigError."""
    if model.conditioning not in ("none", "auto") and n_classes < 2:
        found = "has no class labels" if n_classes == 0 else "has one class only"
        raise ConfigError(
            f"model.conditioning = {model.conditioning!r}: the data {found}; allowed here: none. "
            "Labels are the names of sub-folders; check data.name and data.labels, or set model.conditioning to none"
        )


def check_family(model: ModelConfig, *, resolution: Resolution, n_classes: int) -> None:
    """Refuse what the family cannot do with this data, without importing torch.

    resolution: side of the images in pixels, or (height, width); n_classes: classes of the data, 0 where it has no
    labels. Raises ConfigError.
    """
    check_labels(model, n_classes)
    if model.generator is not None and (model.discriminator is not None or model.pretrained != "none"):
        return  # own classes say themselves what they can make
    family, allowed = NETWORKS[model.name], allowed_resolutions(model.name)
    if not isinstance(resolution, int):
        _check_sides(model.name, *resolution)
    elif allowed is not None and resolution not in allowed:
        nearest = min(allowed, key=lambda side: (abs(side - resolution), -side))
        sides = {name: allowed_resolutions(name) for name in NETWORKS}
        able = [name for name, known in sides.items() if known is None or resolution in known]
        raise ConfigError(
            f"data.resolution = {resolution}: model.name = {model.name!r} makes images of "
            f"{', '.join(map(str, allowed))} pixels; set data.resolution to {nearest} (the nearest), or model.name to "
            f"{' or '.join(able)}"
        )
    if model.generator is None and model.g_upsampling == "bilinear" and not family.upsamplings:
        raise ConfigError(
            f"model.g_upsampling = 'bilinear': model.name = {model.name!r} has a way of its own; leave it at transposed"
        )
    if model.pretrained == "none" and model.discriminator is None and model.d_norm not in family.d_norms:
        raise ConfigError(
            f"model.d_norm = {model.d_norm!r}: model.name = {model.name!r} has no such normalisation; allowed here: "
            f"{', '.join(family.d_norms)}"
        )


def _check_sides(name: str, height: int, width: int) -> None:
    """Refuse sides that are not equal, and that the family cannot make."""
    where, allowed = f"data.resolution = {height}x{width}: model.name = {name!r}", allowed_resolutions(name)
    if not NETWORKS[name].oblong:
        able = [other for other in NETWORKS if NETWORKS[other].oblong]
        raise ConfigError(f"{where} makes square images; set data.resolution to a side, or model.name to {able[0]}")
    if allowed is None or _makes(name, height, width):
        return
    near = "x".join(map(str, nearest_to(height, width, max(allowed))))
    able = [other for other in NETWORKS if NETWORKS[other].oblong and _makes(other, height, width)]
    raise ConfigError(
        f"{where} makes images whose sides are small numbers (3 to 8, the longer one up to 16) times one power of two "
        f"from 4 up, to {max(allowed)} pixels: 48x64 = 3 x 4 times 16; set data.resolution to {near} (the nearest), or "
        f"model.name to {' or '.join(able)}"
    )


def _makes(name: str, height: int, width: int) -> bool:
    """Whether a family that takes sides that are not equal can make these."""
    allowed = allowed_resolutions(name)
    return allowed is None or (can_be_doubled_to((height, width)) and max(height, width) <= max(allowed))
