"""Pictures of a network's inside: (model, images) -> arrays -> figure, one kind a pair of files."""
