"""Reads headers and metadata of image files from their bytes alone: one module for each format."""
