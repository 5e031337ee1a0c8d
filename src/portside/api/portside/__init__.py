"""Our own service, through which the commands ask the daemon for whole verbs."""
