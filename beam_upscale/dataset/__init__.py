"""The output folder: manifest, shards by layout, records, books, card, hold, verification.
Rows, encoded images and records come in; files of the output go out, and are read back. This room
decodes no image, runs no network, and knows nothing of Beam's pipelines.
"""
