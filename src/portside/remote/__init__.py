"""The interfaces of core/ over gRPC: for the library and the commands, against our daemon or upstream containerd.

One module per service; ``backend.RemoteBackend`` has them all. What does not belong here: what a service does, and
how messages become domain objects (``convert/``).
"""
