"""How long things take and what memory they need: one module per benchmark and subcommand of `scripts/benchmark.py`.

A module has `SUMMARY`, one sentence for the help; `add_arguments(parser)`; `measure(arguments)`, which returns a dict
that JSON can hold; and `as_text(result)`.
"""
