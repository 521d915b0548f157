"""One run: its settings, its folder, checkpoints, model cards, weights from elsewhere, the headless
course, its report.
"""
