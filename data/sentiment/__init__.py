"""The embedded world of the `sentiment` track: sentences of film reviews, and how positive a reader
finds them.
"""
