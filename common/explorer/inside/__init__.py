"""What the weights see: filters, values, a photograph on its way through the layers, as pictures.

`filters` takes the first convolution out of a file and `census` counts what is in every layer; `recording` runs a
photograph through the frameworks, with what `common.parity` runs; `pictures` and `layers` draw. `page` is the part of a
network's page that shows it all, `models` the same for a model that `common.prove` has proved.
"""
