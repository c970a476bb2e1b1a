"""How is a diffusion model trained that shows labels as tissue, and exported as a sampler?"""
