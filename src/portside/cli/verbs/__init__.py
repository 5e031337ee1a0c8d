"""The verbs of portside, one module each: a table of options and one function."""
