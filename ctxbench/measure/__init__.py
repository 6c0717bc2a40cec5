"""Numbers about networks: one maker of numbers a file; each returns a frozen row."""
