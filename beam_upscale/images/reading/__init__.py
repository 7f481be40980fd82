"""From the bytes of an image file to arrays: identify, inspect, decode, whole or in rows."""
