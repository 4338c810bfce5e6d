"""The stages of a run in order, and comparisons of several runs."""
