"""The local implementations of core/ put together: what a root's owner runs."""
