"""Latent diffusion upscalers, on diffusers."""
