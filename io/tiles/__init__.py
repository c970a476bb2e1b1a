"""How do slides and their masks become a data set of tiles?"""
