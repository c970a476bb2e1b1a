"""How does one look at a slide with its mask, before, while and after it is rendered, and correct the mask?"""
