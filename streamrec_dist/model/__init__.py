"""The T5-like recommender, its thinking heads, and its files."""
