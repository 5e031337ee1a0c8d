"""Messages, and gRPC and ttrpc as state machines with thin shells."""
