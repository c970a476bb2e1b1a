"""How good is a slide: seams, alignment, distance from real tissue?"""
