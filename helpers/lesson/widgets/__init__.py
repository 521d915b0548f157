"""Explorers, one module a notebook: ipywidgets, whose first picture or text a saved notebook keeps.
What they share is in `core`.
"""
