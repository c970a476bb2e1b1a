"""Which label does each pixel of a canvas have, and how are masks made?"""
