"""Ablations: an experiment file -> trials that are really trained -> rows."""
