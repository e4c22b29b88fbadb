"""The Python interface, behind the names of `distgan`: runs, searches and generators as objects."""
