"""The verbs (pull, run, exec, ...), written once over the interfaces of core/."""
