"""The embedded world of the `tldr` track: everyday dilemmas in the Reddit TL;DR form."""
