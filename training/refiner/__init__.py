"""How does a network learn to refine synthetic pictures of nuclei, and a segmenter from them, without one label?"""
