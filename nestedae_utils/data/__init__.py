"""Public files as tables, and the twin that stands in for them."""
