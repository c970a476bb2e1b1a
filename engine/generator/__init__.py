"""How does a window of labels and noise become a patch of tissue?"""
