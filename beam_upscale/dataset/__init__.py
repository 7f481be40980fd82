"""The output folder: manifest, shards by layout, books, card, hold, and the check that they match.

It never decodes an image.
"""
