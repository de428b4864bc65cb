"""What the weights see, as pictures: filters, values, and a photograph on its way through the layers.

`filters` takes the first convolution out of a file. `census` counts what is in every layer. `recording` runs a
photograph through the frameworks, with the functions of `common.parity`. `pictures` and `layers` draw. `page` makes the
part of a network's page that shows all this. `models` does the same for a model that `common.prove` has proved.
"""
