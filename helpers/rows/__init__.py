"""Rows of public data sets as records: a module a kind of task. Nothing here reads a file or
reaches the network.
"""
