"""Weights by name or path, in a verified cache that many processes share.

Weights are a file for the ESRGAN family and a folder in diffusers' layout for diffusion. Requested
weights are never replaced by others: if they are unavailable, that is an error.
"""
