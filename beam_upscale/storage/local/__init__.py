"""Files on disks of this machine, through the operating system directly.
Paths come in; bytes, listings and files that appear whole go out. Beam is not used: its own local
file system matches names as patterns, and can neither sync nor replace atomically.
"""
