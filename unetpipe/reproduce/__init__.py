"""A run made again from its report, and compared with it."""
