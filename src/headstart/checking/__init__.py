"""Seeing what will be trained before it trains: problems, sizes, previews."""
