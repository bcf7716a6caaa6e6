"""Cached decoding: sampling, trie beam search, candidate scoring."""
