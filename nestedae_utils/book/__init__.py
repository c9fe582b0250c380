"""What the chapters declare, claim, record and draw."""
