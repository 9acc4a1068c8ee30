"""The supernets that ship with the package: space, weights, model card."""
