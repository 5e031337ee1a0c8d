"""Layer archives and snapshots: apply one to the other, compare, compress."""
