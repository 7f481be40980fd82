"""Weights by name or path, in a verified cache that many processes share.
A name, a path or a repository comes in; files on this machine, with their SHA-256, go out.
Requested weights are never replaced by others: if they are unavailable, that is an error. Nothing
here builds a network.

Weights are a file for the ESRGAN family and a folder in diffusers' layout for diffusion.
"""
