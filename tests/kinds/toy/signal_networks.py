"""A small generator and a small discriminator of signals."""

import torch
from torch import nn


class G(nn.Module):
    def __init__(self, latent_dim, length, n_classes):
        super().__init__()
        self.classes = nn.Embedding(max(1, n_classes), latent_dim)
        self.body = nn.Sequential(nn.Linear(latent_dim, 32), nn.ReLU(), nn.Linear(32, length))

    def forward(self, z, c=None):
        return 2 * torch.tanh(self.body(z if c is None else z + self.classes(c)))


class D(nn.Module):
    def __init__(self, length, n_classes):
        super().__init__()
        self.classes = nn.Embedding(max(1, n_classes), 32)
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 5, 2, 2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * length, 32), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(32, 1)

    def features(self, x):
        return self.body(x[:, None])

    def forward(self, x, c=None):
        h = self.features(x)
        return self.head(h)[:, 0] + (0 if c is None else (h * self.classes(c)).sum(1))
