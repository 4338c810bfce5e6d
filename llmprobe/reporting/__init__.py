"""Figures, words and pages, made from results."""
