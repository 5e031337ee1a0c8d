"""The descriptor pool that holds every message of ours, apart from protobuf's default pool (see script/generate.py)."""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
