"""The families of networks, one a file; registry.NETWORKS has them by name."""
