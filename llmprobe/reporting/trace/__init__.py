"""Token-by-token scores, drawn."""
