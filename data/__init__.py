"""The embedded worlds: small generated text worlds whose probabilities are known."""
