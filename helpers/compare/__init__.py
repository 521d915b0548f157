"""Policies side by side: baselines, overlap with references, perplexity, win rates, second judge,
HellaSwag.
"""
