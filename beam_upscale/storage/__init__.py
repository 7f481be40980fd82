"""Files of local disks, Beam's file systems, HDFS and web servers, behind one protocol.

URIs come in; bytes, listings and atomic publications go out. This room knows nothing of images,
datasets or runs (the message of FILE_TOO_LARGE alone names an option), and imports no room but
`errors`.
"""
