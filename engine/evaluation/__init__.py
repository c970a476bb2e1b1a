"""How good is a slide? Seams between patches, alignment with the mask, distance from real tissue."""
