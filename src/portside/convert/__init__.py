"""Domain objects of core/ to protobuf messages and back: one module per kind, used by the doors and by remote/.

Naming: ``thing_to_pb(domain) -> message`` and ``thing_from_pb(message) -> domain``. What a peer sends is checked here
where the type alone does not say it (digests, sizes); ranges and rules are the business of whoever gets the object.
"""
