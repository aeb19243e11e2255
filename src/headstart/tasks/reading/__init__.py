"""Readers: from files, folders and datasets to examples and tasks, every fault named by file, row and column."""
