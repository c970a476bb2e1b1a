"""What do this process and this machine offer: memory, cores, GPUs, signals, library versions, compiled code?"""
