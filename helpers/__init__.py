"""The library behind the four notebooks: what they build step by step, in its finished form."""
