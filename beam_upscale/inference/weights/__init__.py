"""Weights by name or path, in a verified cache that many processes share.

They are a file for the ESRGAN family and a folder in diffusers' layout for diffusion. Nothing here
chooses other weights than those asked for: what cannot be had is an error.
"""
