"""The explorer's pages, served on this machine alone, with a panel that runs a network in the browser.

`server` decides which requests are answered, `routes` which file an address means. `networks` makes the files that the
panel runs, in a process of its own. The panel is `panel.js`; `worker.js` computes, with ONNX Runtime (`runtime`).
"""
