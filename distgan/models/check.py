"""Whether networks can work on square images. Needs no torch for the families' limits."""

from __future__ import annotations

from distgan.config import ConfigError, ModelConfig
from distgan.models.pretrained import check_pretrained, needs_trial
from distgan.registry import NETWORKS


def allowed_resolutions(name: str) -> tuple[int, ...] | None:
    """Sides of the square images, in pixels, that family `name` can make; None = any."""
    allowed: tuple[int, ...] | None = NETWORKS[name].resolutions
    return allowed


def check_models(model: ModelConfig, *, channels: int, resolution: int, n_classes: int = 0) -> None:
    """Refuse networks that cannot work on such images, before any worker starts. Raises ConfigError.

    The families' limits are checked without building anything; own classes, further arguments and pretrained weights
    of the user's are tried out with three samples.
    """
    check_family(model, resolution=resolution, n_classes=n_classes)
    check_pretrained(model, channels=channels)
    own = model.generator is not None or model.discriminator is not None or model.g_args or model.d_args
    if own or needs_trial(model):
        from distgan.models.build import try_out

        shape = (channels, resolution, resolution)
        try_out(model, shape=shape, n_classes=n_classes, channels=channels, resolution=resolution)


def check_labels(model: ModelConfig, n_classes: int) -> None:
    """Refuse a conditioning that the data has no classes for (n_classes, 0 = no labels). Raises ConfigError."""
    if model.conditioning not in ("none", "auto") and n_classes < 2:
        found = "has no class labels" if n_classes == 0 else "has one class only"
        raise ConfigError(
            f"model.conditioning = {model.conditioning!r}: the data {found}; allowed here: none. "
            "Labels are the names of sub-folders; check data.name and data.labels, or set model.conditioning to none"
        )


def check_family(model: ModelConfig, *, resolution: int, n_classes: int) -> None:
    """Refuse what the family cannot do with this data, without importing torch.

    resolution: side of the images in pixels; n_classes: classes of the data, 0 where it has no labels.
    Raises ConfigError.
    """
    check_labels(model, n_classes)
    if model.generator is not None and (model.discriminator is not None or model.pretrained != "none"):
        return  # own classes say themselves what they can make
    family, allowed = NETWORKS[model.name], allowed_resolutions(model.name)
    if allowed is not None and resolution not in allowed:
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
