"""Files on disks of this machine, through the operating system directly.

Beam's own local file system matches names as patterns, and can neither sync nor replace atomically.
"""
