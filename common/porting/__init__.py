"""Weights from the formats people have to the frameworks they want, and the proof that nothing was lost.

`formats.read_source` reads a file, whatever it is; `matching.understand` finds out which network it is and gives its
weights in the canonical layout; `targets.write_target` writes them; `proof` reads them back in another process.
"""
