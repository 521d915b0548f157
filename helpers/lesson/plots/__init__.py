"""Figures, one module a notebook; 3-PPO's are split by subject. Each function returns a matplotlib
figure and leaves it open, so that its cell shows it once.
"""
