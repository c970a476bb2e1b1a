"""How strongly is the slide stained, and in which colours?"""
