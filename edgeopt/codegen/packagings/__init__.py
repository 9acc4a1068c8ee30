"""Build systems a bundle can be dropped into."""
