"""Runs side by side: whether they can be compared, and how their curves differ."""
