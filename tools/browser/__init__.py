"""The four notebooks in a real browser: `make browser`."""
