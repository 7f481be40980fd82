"""From arrays to the bytes of an image file: encode at once, or stream rows."""
