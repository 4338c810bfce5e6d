"""Saved probes on new texts."""
