"""Latent diffusion upscalers, on diffusers.
A folder in diffusers' layout, samples and parameters come in; upscaled samples go out. Nothing here
downloads a file or chooses a seed.
"""
