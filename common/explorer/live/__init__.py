"""The explorer's pages, served on this machine alone, with a panel that runs a network in the visitor's browser.

`server` decides what is answered at all, `routes` what is found where, `networks` makes what the panel runs, in a
process of its own. The panel is `panel.js`; the browser computes in `worker.js`, with ONNX Runtime (`runtime`).
"""
