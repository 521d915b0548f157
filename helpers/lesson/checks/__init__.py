"""Checked exercises, one module a notebook (`lora` is 1b-Adapters'): `from
helpers.lesson.checks.ppo import check_gae`. The mechanism is in `core`.
"""
