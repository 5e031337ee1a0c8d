"""The daemon: configuration, plugins, listeners; built from engine/ and api/."""
