"""The sets of images that are known by name, one a file; registry.DATA_SETS has them."""
