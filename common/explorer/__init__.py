"""The side-by-side pages, and what they are made of: sources read and aligned, drawings, traps, reports.

No framework is imported in here, but by `traps` and `summary`, in processes of their own and where they are asked to.
"""
