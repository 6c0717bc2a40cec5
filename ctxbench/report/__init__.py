"""Tables and figures from rows alone; nothing here imports torch."""
