"""How does a generator compute the same pixels in less time on a CPU?"""
