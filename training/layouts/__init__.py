"""How is a diffusion model trained that invents where nuclei lie, and exported as a sampler?"""
