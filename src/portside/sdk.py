"""The library's two doors, ``connect`` and ``Engine``: the verbs of ``client/`` over a daemon or in this process."""
