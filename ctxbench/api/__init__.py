"""The commands as functions: one call each, a DataFrame back, and nothing written unless asked.

`ctxbench` has them by name: `ctxbench.count_costs`, `check_claims`, `time_networks`,
`run_experiment`, `draw_networks`, `read_table`, `build_report` and the others.
"""
