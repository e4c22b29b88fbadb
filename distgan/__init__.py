"""distgan: distributed GAN training, search and export on PyTorch and Ray."""

__version__ = "0.1.0"
