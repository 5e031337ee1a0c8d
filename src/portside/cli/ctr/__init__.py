"""``portside ctr``: containerd's own command, with its grammar and its columns, over the interfaces of core/.

It speaks to our daemon and to upstream containerd alike. One module for each group of verbs.
"""
