"""Networks small enough to see them make their classes separable: XOR, and images."""
