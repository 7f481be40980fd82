"""The layouts of stored images: one module for each that packs a shard's images into a file."""
