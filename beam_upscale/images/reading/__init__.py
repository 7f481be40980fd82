"""Reads the bytes of image files into arrays: identify, inspect, decode, whole or by rows."""
