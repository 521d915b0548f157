"""Checked exercises, one module a notebook: `from helpers.lesson.checks.ppo import check_gae`. The
mechanism is in `core`.
"""
