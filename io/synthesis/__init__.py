"""How are pictures of nuclei made from real tiles without a network and without a label?"""
