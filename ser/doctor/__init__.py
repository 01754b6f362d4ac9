"""``ser doctor``: what it looks at on this machine and in one experiment."""
