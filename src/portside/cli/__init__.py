"""The commands: a table of verbs, one file for each."""
