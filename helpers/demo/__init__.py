"""Talk to the models of a run: a web page, a terminal, a Hugging Face Space (docs/running.md)."""
