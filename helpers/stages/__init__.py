"""The four stages as commands: load, train, measure, save."""
