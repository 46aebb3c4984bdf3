"""A run, looked at in a browser."""
