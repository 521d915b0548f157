"""Figures, one module a notebook: matplotlib, each tells its story without a kernel."""
