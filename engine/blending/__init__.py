"""How do overlapping patches become one image? Weighted sums in whole numbers, which no order changes."""
