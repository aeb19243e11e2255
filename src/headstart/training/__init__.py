"""The outer loop: sample, meta-gradient, reduce, step, log, save."""
