"""How is a diffusion model trained that paints labels, and exported as a sampler?"""
