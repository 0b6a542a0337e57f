"""The schema's history: each module of `versions/` is a step; migrate.py applies them.

A step is written by hand, from script.py.mako, and tables.py says where it leads: a test holds the
two equal, on both databases.
"""
