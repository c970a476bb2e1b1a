"""How do overlapping patches become one image? Weighted sums in whole numbers, then resampling to the slide's pixels."""
