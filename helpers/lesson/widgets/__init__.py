"""Explorers, one module a notebook: ipywidgets, each under a static figure of
`helpers.lesson.plots`. What they share is in `core`.
"""
