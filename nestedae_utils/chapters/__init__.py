"""What single chapters need; each module serves its own."""
