"""Ways to time a kernel."""
