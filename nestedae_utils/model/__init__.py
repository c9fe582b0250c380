"""Scales, their training, and the chain they form."""
