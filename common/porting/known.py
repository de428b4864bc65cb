"""Public files, recognised by their SHA-256.

Those of the ONNX Model Zoo are from the zoo's own index. torchvision puts the first eight digits into the names of its
files.
"""

from __future__ import annotations

ONNX_ZOO = {
    "ef3c82dad5c512f969dbf701fe35c0b3feb1585687d541f765eb68730c0a8af7": "bvlcalexnet-9.onnx",
    "6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945": "bvlcalexnet-12.onnx",
    "82f8997778cd9c5ef9673fc86e340f86e3b29650886b923e5e1aa478d5f83f92": "caffenet-8.onnx",
    "f8b7bb4040377b83089eef98800a15303325ed75ced468a8972a87e0bc23692e": "inception-v1-9.onnx",
    "814b31a6316873bd03d2d808415ce1f40a7bf48ad88eab5ecc3cdc8dc6cf38ec": "inception-v1-12.onnx",
    "f20805a3ecccaa88647bbab4ad011ff2412a9838485ea844de0fcbce349820b9": "vgg16-7.onnx",
    "cfb97260b303ad3963999662456571b89c5f73dbdd2fd9dffd19fed7a90f766b": "vgg19-caffe2-9.onnx",
    "4e8f8653e7a2222b3904cc3fe8e304cd8b339ce1d05fd24688162f86fb6df52c": "resnet18-v1-7.onnx",
    "78eecdb9354e71364b9df6f3b5824ecc48710938d5b4ea23724b9a2e9edbc4a6": "resnet50-caffe2-v1-9.onnx",
    "ab65bdc02c5b3123eb3cdf6dac01742438517d8635d4f233913b2be1c70db3b6": "resnet50-v1-12.onnx",
    "faafaf3aea406a105e26805cf3e8e591549e1c06feb60a8e60d85bcf94f8d8c5": "resnet101-v1-7.onnx",
    "a1c165290f7ac03128a24d9e34e8497d27630498d503c80b762a41169b64c112": "resnet152-v1-7.onnx",
    "0294e7e88e5b3360de9b0fdc321baf9e6ef18b7f058c4536caae3b9f18ed9ed5": "densenet-12.onnx",
}

TORCHVISION = (
    *("alexnet-owt-4df8aa71", "alexnet-owt-7be5be79", "googlenet-1378be20"),
    *("vgg11_bn-6002323d", "vgg13_bn-abd245e5", "vgg16_bn-6c64b313", "vgg19_bn-c79401a0"),
    *("vgg11-8a719046", "vgg13-19584684", "vgg16-397923af", "vgg19-dcbb9e9d"),
    *("resnet18-f37072fd", "resnet34-b627a593", "resnet50-0676ba61", "resnet50-11ad3fa6"),
    *("resnet101-63fe2227", "resnet101-cd907fc2", "resnet152-394f9c45", "resnet152-f82ba261"),
    *("densenet121-a639ec97", "densenet161-8d451a50", "densenet169-b2777c0a", "densenet201-c1103571"),
)


def known_file(sha256: str) -> str | None:
    """The public file with this digest, if it is known here."""
    if sha256 in ONNX_ZOO:
        return f"{ONNX_ZOO[sha256]} of the ONNX Model Zoo"
    names = (f"{name}.pth of torchvision" for name in TORCHVISION if name.endswith(f"-{sha256[:8]}"))
    return next(names, None)
