"""Models of one’s own tables, declared in YAML."""
