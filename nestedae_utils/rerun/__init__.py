"""Chapters executed again: runs and sweeps."""
