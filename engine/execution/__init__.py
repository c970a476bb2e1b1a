"""Who runs which task, where, and in which order?"""
