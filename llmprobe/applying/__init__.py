"""Saved probes on new texts, and on the examples that they did not see."""
