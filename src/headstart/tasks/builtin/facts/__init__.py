"""Facts that the builtin tasks ask for, written down for this project."""
