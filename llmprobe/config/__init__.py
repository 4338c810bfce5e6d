"""A run's config: its keys, and how files become it."""
