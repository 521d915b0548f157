"""Checked exercises, one module a notebook, and one for LoRA: `from helpers.lesson.checks.ppo
import check_gae`. The mechanism is in `core`.
"""
