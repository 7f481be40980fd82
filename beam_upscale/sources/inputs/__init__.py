"""The values that inputs are: `SourceImage`, sets of them, and what may be an input."""
