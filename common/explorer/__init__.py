"""The side-by-side pages and their parts: sources read and aligned, drawings, traps, reports.

No framework is imported here. `traps` and `summary` import one, each in a process of its own and only on request.
"""
