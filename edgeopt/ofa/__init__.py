"""Once-for-all supernets: spaces, layers, training, search."""
