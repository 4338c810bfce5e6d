"""The stages in their order, and several runs side by side."""
