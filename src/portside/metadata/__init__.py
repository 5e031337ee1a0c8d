"""What is remembered: one SQLite database of namespaced records, labels and leases."""
