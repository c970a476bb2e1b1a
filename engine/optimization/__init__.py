"""How does a graph compute the same pixels in less time on a CPU?"""
