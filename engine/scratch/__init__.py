"""What do the tasks of a render share on disk, and what of it survives a crash?"""
