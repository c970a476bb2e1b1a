"""How is a pyramidal BigTIFF written, read and checked?"""
