"""Where the descriptors of the API's messages live."""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
"""Not the process's own pool: the official SDK's messages have the same names, and stand there."""
