"""Datasets: labelled texts in groups, shipped, generated, published or the user's own."""
