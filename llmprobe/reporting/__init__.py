"""Results in; figures, words and pages out."""
