"""Boards: profiles, their validation, and ways to reach them."""
