"""Files on Beam's file systems: S3, GCS, Azure, HDFS, and any that a user adds to Beam.
URIs with their schemes come in; bytes, listings and publications go out. Nothing here reads a local
disk or a web server.

Beam's `FileSystems` lists, reads and replaces files, and a file appears when it is closed (one PUT
on an object store). The object stores' conditional writes and HDFS's renames come from their own
clients.
"""
