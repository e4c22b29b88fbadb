"""What each family of networks can make. Needs no torch, so that a mistake is told before anything heavy is
imported.
"""

from __future__ import annotations

from distgan.config import ConfigError, ModelConfig

_POWERS = (16, 32, 64, 128, 256)

_RESOLUTIONS: dict[str, tuple[int, ...] | None] = {
    "mlp": None,  # any
    "dcgan": (16, 28, 32, 64, 128, 256),
    "resnet": _POWERS,
    "r3gan": _POWERS,
}


def allowed_resolutions(name: str) -> tuple[int, ...] | None:
    """Sides of the square images, in pixels, that family `name` can make; None = any."""
    return _RESOLUTIONS[name]


def check_models(model: ModelConfig, *, channels: int, resolution: int, n_classes: int = 0) -> None:
    """Refuse networks that cannot work on this data, before any worker starts. Raises ConfigError.

    The families' limits are checked without building anything; own classes and further arguments are tried out with
    three samples.
    """
    check_family(model, resolution=resolution, n_classes=n_classes)
    if model.generator is not None or model.discriminator is not None or model.g_args or model.d_args:
        from distgan.models.build import try_out

        try_out(model, channels=channels, resolution=resolution, n_classes=n_classes)


def check_family(model: ModelConfig, *, resolution: int, n_classes: int) -> None:
    """Refuse what the family cannot do with this data, without importing torch.

    resolution: side of the images in pixels; n_classes: classes of the data, 0 where it has no labels.
    Raises ConfigError.
    """
    if model.conditioning not in ("none", "auto") and n_classes < 2:
        found = "has no class labels" if n_classes == 0 else "has one class only"
        raise ConfigError(
            f"model.conditioning = {model.conditioning!r}: the data {found}; allowed here: none. "
            "Labels are the names of sub-folders; check data.name and data.labels, or set model.conditioning to none"
        )
    if model.generator is not None and model.discriminator is not None:
        return  # own classes say themselves what they can make
    allowed = allowed_resolutions(model.name)
    if allowed is not None and resolution not in allowed:
        nearest = min(allowed, key=lambda side: (abs(side - resolution), -side))
        able = [name for name, sides in _RESOLUTIONS.items() if sides is None or resolution in sides]
        raise ConfigError(
            f"data.resolution = {resolution}: model.name = {model.name!r} makes images of "
            f"{', '.join(map(str, allowed))} pixels; set data.resolution to {nearest} (the nearest), or model.name to "
            f"{' or '.join(able)}"
        )
    if model.name == "r3gan" and model.d_norm == "spectral" and model.discriminator is None:
        raise ConfigError("model.d_norm = 'spectral': model.name = 'r3gan' has no normalisation; allowed here: none")
