"""The hinge loss."""

from torch.nn.functional import relu

from distgan.gan.losses.base import Loss

# Lim and Ye, 2017; Miyato et al., 2018, eq. 16 and 17.
LOSS = Loss(d=lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), g=lambda real, fake: -fake.mean())
