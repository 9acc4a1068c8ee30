"""The supernets that ship with the package: space, weights, model card."""

from edgeopt.zoo.entries import ZooEntry, load, load_folder, names

__all__ = ["ZooEntry", "load", "load_folder", "names"]
