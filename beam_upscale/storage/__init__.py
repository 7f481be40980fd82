"""Files on local disks, Beam's file systems, HDFS and web servers.

URIs come in; bytes, listings and atomic publications go out. It knows nothing of images or of runs.
"""
