"""ttrpc: the protocol between a daemon and its shims, as a state machine with thin shells."""
