"""The embedded world of the tracks `assistant` and `instruct`: everyday requests and answers to
them.
"""
