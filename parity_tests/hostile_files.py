"""Files that mean harm, or came to it: each a function from a folder to the path of the file that it made there.

Those of pickles would create the file `EXECUTED` in the folder, were they run.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

MARKER = "EXECUTED"

ATTACKS: dict[str, Callable[[Path], Path]] = {}


def attack(function):
    """Keep a function in `ATTACKS` by its name."""
    ATTACKS[function.__name__] = function
    return function


def write(folder: Path, content: bytes, name: str = "weights.bin") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def npy(pickled: bytes, shape: str = "()", descr: str = "'|O'", fortran: str = "False") -> bytes:
    """An npy file with a pickle, or anything, after its header."""
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + pickled


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def calling(module: str, name: str, argument: bytes, opcode: bytes = b"c") -> bytes:
    """A pickle of protocol 2 that calls a global with one text."""
    text = b"X" + struct.pack("<I", len(argument)) + argument
    if opcode == b"c":
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + text + b"\x85R."
    names = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + names + b"\x93" + text + b"\x85R."


def touching(folder: Path) -> bytes:
    return f"touch {folder / MARKER}".encode()


def python(folder: Path) -> bytes:
    return f"open({str(folder / MARKER)!r}, 'w')".encode()


def _register(name: str, content: Callable[[Path], bytes]) -> None:
    ATTACKS[name] = lambda folder: write(folder, content(folder))


# Calls of what was never meant to be called.
for name, module, function, argument in (
    ("os_system", "os", "system", touching),
    ("posix_system", "posix", "system", touching),
    ("subprocess_getoutput", "subprocess", "getoutput", touching),
    ("eval", "builtins", "eval", python),
    ("eval_of_python_2", "__builtin__", "eval", python),
    ("exec", "builtins", "exec", python),
    ("pickle_loads", "pickle", "loads", python),
    ("numpy_load", "numpy", "load", python),
    ("numpy_runstring", "numpy.testing._private.utils", "runstring", python),
    ("numpy_distutils", "numpy.distutils.exec_command", "exec_command", touching),
    ("numpy_ctypes", "numpy.ctypeslib", "load_library", python),
    ("torch_load", "torch", "load", python),
    ("runpy", "runpy", "run_path", python),
    ("webbrowser", "webbrowser", "open", python),
):
    _register(name, lambda folder, m=module, f=function, a=argument: npy(calling(m, f, a(folder))))
    _register(
        f"{name}_by_stack", lambda folder, m=module, f=function, a=argument: npy(calling(m, f, a(folder), b"\x93"))
    )

_register(
    "builtins_through_numpy", lambda f: npy(calling("numpy.core.multiarray", "__builtins__.eval", python(f), b"\x93"))
)
_register("attribute_of_ndarray", lambda f: npy(calling("numpy", "ndarray.__class__.__subclasses__", b"", b"\x93")))
_register(
    "reconstruct_of_os",
    lambda f: npy(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\nK\x00\x85U\x01b\x87R."),
)
_register("class_instance", lambda f: npy(b"(S'touch " + str(f / MARKER).encode() + b"'\nios\nsystem\n."))
_register("object_opcode", lambda f: npy(b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao."))
_register("new_object", lambda f: npy(b"\x80\x02cnumpy\nndarray\n)\x81."))
_register("new_object_with_keywords", lambda f: npy(b"\x80\x04cnumpy\nndarray\n)}\x92."))
_register("extension_registry", lambda f: npy(b"\x80\x02\x82\x01."))
_register("copyreg", lambda f: npy(calling("copyreg", "_reconstructor", b"a")))
_register("copyreg_add_extension", lambda f: npy(calling("copyreg", "add_extension", b"a")))
_register("set_state_of_a_dict", lambda f: npy(b"\x80\x02}}U\x09__class__NsbU\x01aNs."))
_register("persistent_in_numpy", lambda f: npy(b"\x80\x02U\x01aQ."))
_register("next_buffer", lambda f: npy(b"\x80\x05\x97."))


# Bombs.
@attack
def memo_bomb(folder):
    """A tuple that holds itself twice, 60 times over, as a key: hashing it takes 2^60 steps."""
    doubling = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) + b"0" for n in range(60))
    return write(folder, npy(b"\x80\x02}K\x01q\x000" + doubling + b"h\x3cNs."))


@attack
def laughing_lists(folder):
    doubling = b"".join(b"]q" + bytes([n + 1]) + b"h" + bytes([n]) + b"ah" + bytes([n]) + b"a0" for n in range(60))
    return write(folder, npy(b"\x80\x02]q\x000" + doubling + b"}U\x05conv1h\x3cs."))


@attack
def list_within_itself(folder):
    return write(folder, npy(b"\x80\x02]q\x00h\x00a."))


_register("many_objects", lambda f: npy(b"\x80\x02" + b"}" * 2_000_000))
_register("deep_nesting", lambda f: npy(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."))
_register("promised_bytes", lambda f: npy(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc."))
_register("promised_text", lambda f: npy(b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"abc."))
_register("negative_length", lambda f: npy(b"\x80\x02T" + struct.pack("<i", -5) + b"abc."))
_register("long_integer", lambda f: npy(b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\xff" * 10**6 + b"."))
_register("terabytes", lambda f: npy(b"abcd", shape="(1000000000000,)", descr="'<f4'"))
_register("terabytes_of_objects", lambda f: npy(b"\x80\x02].", shape="(1000000000000,)"))
_register("nested_header", lambda f: npy(b"", shape="(" * 5000 + ")" * 5000))
_register("header_longer_than_the_file", lambda f: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{")
_register("header_that_computes", lambda f: npy(b"", shape="(9**9**9,)"))
_register("negative_shape", lambda f: npy(b"abcd", shape="(-1,)", descr="'<f4'"))


@attack
def zip_bomb(folder):
    path = folder / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1_W.npy", npy(bytes(50_000_000), shape="(12500000,)", descr="'<f4'"))
    return path


@attack
def many_names_for_one_entry(folder):
    """A zip whose directory lists the same compressed bytes a thousand times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a_W.npy", npy(bytes(100_000), shape="(25000,)", descr="'<f4'"))
        entry = archive.filelist[0]
        for number in range(1000):
            twin = zipfile.ZipInfo(f"b{number}_W.npy")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(twin, field, getattr(entry, field))
            archive.filelist.append(twin)
    return write(folder, buffer.getvalue())


# Damage.
def valid_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, conv1_W=np.ones((2, 3, 4, 5), np.float32), conv1_b=np.ones(5, np.float32))
    return buffer.getvalue()


def valid_npy() -> bytes:
    return (Path(__file__).parent / "data" / "python2_list.npy").read_bytes()


def array(content, **options) -> bytes:
    """The npy of a dict of one layer."""
    buffer = io.BytesIO()
    np.save(buffer, np.array({"conv1": [content, np.zeros(3, np.float32)]}, dtype=object), **options)
    return buffer.getvalue()


_register("truncated_npz", lambda f: valid_npz()[:-30])
_register("flipped_bit_in_npz", lambda f: valid_npz()[:300] + bytes([valid_npz()[300] ^ 1]) + valid_npz()[301:])
_register("truncated_npy", lambda f: valid_npy()[:-2000])
_register("bytes_behind_the_pickle", lambda f: valid_npy() + b"and more")
_register("empty", lambda f: b"")
_register("text", lambda f: b"<html>404 Not Found</html>")
_register("zeros", lambda f: bytes(10_000))
_register("objects_within_objects", lambda f: array(np.array([np.zeros(3), None], dtype=object)))
_register("float64", lambda f: array(np.zeros((3, 3, 2, 4))))
_register("float16", lambda f: array(np.zeros((3, 3, 2, 4), np.float16)))
_register("int32", lambda f: array(np.zeros((3, 3, 2, 4), np.int32)))
_register("complex64", lambda f: array(np.zeros((3, 3, 2, 4), np.complex64)))
_register("texts", lambda f: array(np.array([["a", "b"]])))
_register("records", lambda f: array(np.zeros(3, [("a", "<f4"), ("b", "<f4")])))
_register("dates", lambda f: array(np.zeros(3, "datetime64[s]")))
_register("big_endian", lambda f: array(np.zeros((3, 3, 2, 4), ">f4")))
_register("fortran_order", lambda f: array(np.asfortranarray(np.zeros((3, 3, 2, 4), np.float32))))
_register("matrix", lambda f: array(np.matrix([[1.0, 2.0]], np.float32)))
_register("masked_array", lambda f: array(np.ma.array([1.0, 2.0])))
_register("no_array", lambda f: array("a text"))
_register("three_parameters", lambda f: npy(pickle.dumps(np.array({"conv1": [1, 2, 3]}, dtype=object), 2)))


@attack
def shape_without_data(folder):
    content = array(np.zeros((3, 3, 2, 4), np.float32))
    return write(folder, content.replace(b"(K\x03K\x03K\x02K\x04t", b"(K\x03K\x03K\x02K\x7ft"))


# safetensors.
def safetensors(header: bytes | dict, data: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape=(3,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


_register("safetensors_header_of_terabytes", lambda f: struct.pack("<Q", 2**43) + b"{" + bytes(100))
_register("safetensors_overlap", lambda f: safetensors({"a/weight": entry(0, 12), "a/bias": entry(8, 20)}, bytes(20)))
_register(
    "safetensors_same_bytes", lambda f: safetensors({"a/weight": entry(0, 12), "a/bias": entry(0, 12)}, bytes(12))
)
_register("safetensors_gap", lambda f: safetensors({"a/weight": entry(0, 8, (2,)), "a/bias": entry(12, 24)}))
_register("safetensors_beyond", lambda f: safetensors({"a/weight": entry(0, 4 * 10**12, (10**12,))}))
_register("safetensors_backwards", lambda f: safetensors({"a/weight": entry(24, 0)}))
_register("safetensors_shape", lambda f: safetensors({"a/weight": entry(0, 24, (7,))}))
_register("safetensors_dtype", lambda f: safetensors({"a/weight": entry(0, 24, (12,), "BF16")}))
_register("safetensors_negative", lambda f: safetensors({"a/weight": entry(0, 24, (-2, -3))}))
_register("safetensors_deep", lambda f: safetensors(b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}"))
_register("safetensors_list", lambda f: safetensors(b"{}  []"))
_register(
    "safetensors_duplicate",
    lambda f: safetensors(
        b'{"a/weight":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
        b'"a/weight":{"dtype":"F32","shape":[3],"data_offsets":[12,24]}}'
    ),
)


# PyTorch.
def pth(pickled: bytes, **entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in entries.items():
            archive.writestr(f"archive/data/{name[1:]}", data)
    return buffer.getvalue()


def tensor_call(
    size: int, stride: int, elements: int, storage: bytes = b"FloatStorage", key: bytes = b"0", module: bytes = b"torch"
) -> bytes:
    """What rebuilds a tensor."""
    reference = b"(U\x07storagec" + module + b"\n" + storage + b"\nU\x01" + key + b"U\x03cpu" + number(elements) + b"tQ"
    arguments = b"(" + reference + b"K\x00" + number(size) + b"\x85" + number(stride) + b"\x85\x89}t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def tensor(size: int, stride: int, elements: int, storage: bytes = b"FloatStorage", key: bytes = b"0") -> bytes:
    """A state dict of one tensor."""
    return b"\x80\x02}U\x08fc8.bias" + tensor_call(size, stride, elements, storage, key) + b"s."


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


_register("pth_os_system", lambda f: pth(calling("os", "system", touching(f))))
_register("pth_bytearray", lambda f: pth(b"\x80\x02c__builtin__\nbytearray\n" + number(10**12) + b"\x85R."))
_register("pth_getattr", lambda f: pth(calling("__builtin__", "getattr", b"a")))
_register("pth_module", lambda f: pth(calling("torch.nn.modules.container", "Sequential", b"a")))
_register("pth_terabytes", lambda f: pth(tensor(10**12, 1, 10**12), _0=bytes(12)))
_register("pth_expanded", lambda f: pth(tensor(10**12, 0, 3), _0=bytes(12)))
_register("pth_negative_stride", lambda f: pth(tensor(3, -1, 3), _0=bytes(12)))
_register("pth_missing_data", lambda f: pth(tensor(3, 1, 3)))
_register("pth_path_as_key", lambda f: pth(tensor(3, 1, 3, key=b"."), _0=bytes(12)))
_register("pth_half", lambda f: pth(tensor(3, 1, 3, b"HalfStorage"), _0=bytes(6)))
_register("pth_short_data", lambda f: pth(tensor(3, 1, 3), _0=bytes(8)))
_register("legacy_pth_os_system", lambda f: calling("os", "system", touching(f)))
_register(
    "legacy_pth_terabytes",
    lambda f: b"".join(
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
            b"\x80\x02M\xe9\x03.",
            b"\x80\x02}U\x0dlittle_endian\x88s.",
            tensor(10**12, 1, 10**12),
            b"\x80\x02]U\x010a.",
            struct.pack("<q", 10**12),
            bytes(12),
        )
    ),
)


# Checkpoints of trainings, whose other objects are kept as records.
def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def dictionary(*pairs: tuple[bytes, bytes]) -> bytes:
    """Of keys and values that are pickled already."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


SMALL_TENSOR = tensor_call(3, 1, 3)
NETWORK = dictionary((text(b"a.weight"), SMALL_TENSOR), (text(b"a.bias"), SMALL_TENSOR))


def checkpoint(other: bytes) -> bytes:
    """A state dict, and another object beside it."""
    return b"\x80\x02" + dictionary((text(b"state_dict"), NETWORK), (text(b"args"), other)) + b"."


def legacy(state: bytes, keys: bytes = b"\x80\x02]U\x010a.", data: bytes = struct.pack("<q", 3) + bytes(12)) -> bytes:
    """A file of before PyTorch 1.6."""
    begin = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03.", b"\x80\x02}U\x0dlittle_endian\x88s."
    return b"".join((*begin, state, keys, data))


def beside(name: str, other: Callable[[Path], bytes]) -> None:
    """An object beside the weights, in the format of today and in the one of before 1.6."""
    _register(f"beside_{name}", lambda f: pth(checkpoint(other(f)), _0=bytes(12)))
    _register(f"legacy_beside_{name}", lambda f: legacy(checkpoint(other(f))))


def module(modules: bytes, parameters: bytes = b"}") -> bytes:
    """A record of a module that was saved whole."""
    state = dictionary((text(b"_parameters"), parameters), (text(b"_buffers"), b"}"), (text(b"_modules"), modules))
    return b"cx\nNet\n)\x81" + state + b"b"


DOUBLED = b"".join(
    b"}(" + text(b"a") + b"h" + bytes([n]) + text(b"b") + b"h" + bytes([n]) + b"uq" + bytes([n + 1]) for n in range(60)
)
"""Dicts each of which has the one before twice: 2^60 paths."""

beside("system", lambda f: b"cos\nsystem\n" + text(touching(f)) + b"\x85R")
beside("new_object", lambda f: b"cos\nsystem\n" + text(touching(f)) + b"\x85\x81")
beside("new_object_with_keywords", lambda f: b"cos\nsystem\n" + text(touching(f)) + b"\x85}\x92")
beside("result_called", lambda f: b"c__builtin__\ngetattr\ncos\nsystem\n\x86R" + text(touching(f)) + b"\x85R")
beside("state_with_code", lambda f: b"cx\nA\n)\x81c__builtin__\neval\n" + text(python(f)) + b"\x85Rb")
beside("items_with_code", lambda f: b"ccollections\nOrderedDict\n)R" + text(b"a") + b"cos\nsystem\n)Rs")
beside("extension", lambda f: b"\x82\x01")
beside("instance", lambda f: b"(ios\nsystem\n")
beside("dicts_doubled", lambda f: b"}q\x00" + DOUBLED)
beside("itself", lambda f: b"}q\x00" + text(b"a") + b"h\x00s")
TUPLES = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) + b"0" for n in range(60))
beside("key_that_is_a_bomb", lambda f: b"}K\x01q\x00" + TUPLES + b"h\x3cNs")
beside("long_integer", lambda f: b"\x8b" + struct.pack("<I", 10**6) + b"\xff" * 10**6)
beside("promised_long_integer", lambda f: b"\x8b" + struct.pack("<I", 2**32 - 1))
beside("set_of_lists", lambda f: b"\x8f(]]]\x90")
beside("state_twice", lambda f: b"cx\nA\n)\x81}b}b")
beside("ordered_dict_of_no_pairs", lambda f: b"ccollections\nOrderedDict\n]K\x01a\x85R")
beside("tensor_in_many_dimensions", lambda f: tensor_call(1, 1, 3).replace(
    number(1) + b"\x85", b"(" + number(1) * 70 + b"t"))  # fmt: skip
beside("tensor_of_os", lambda f: tensor_call(3, 1, 3, b"system", module=b"os"))
beside("tensor_of_nothing", lambda f: b"ctorch._utils\n_rebuild_tensor_v2\n)R")
beside("parameter_of_nothing", lambda f: b"ctorch._utils\n_rebuild_parameter\n]\x85R")
beside("subclass_of_lists", lambda f: b"ctorch._tensor\n_rebuild_from_type_v2\n(]]]]tR")
beside("terabytes_of_half", lambda f: tensor_call(10**12, 1, 10**12, b"HalfStorage", b"1"))
beside(
    "quantised", lambda f: dictionary(*((text(b"%d.w" % n), tensor_call(3, 1, 3, b"QInt8Storage")) for n in range(5)))
)
_register(
    "module_of_os", lambda f: pth(b"\x80\x02" + module(b"}(" + text(b"a") + b"cos\nsystem\n)Ru") + b".", _0=bytes(12))
)
OWN = (text(b"_parameters"), dictionary((text(b"w"), SMALL_TENSOR)))
ITSELF = b"cx\nNet\n)\x81q\x00" + dictionary(OWN, (text(b"_modules"), dictionary((text(b"a"), b"h\x00")))) + b"b"
_register("module_within_itself", lambda f: pth(b"\x80\x02" + ITSELF + b".", _0=bytes(12)))
_register(
    "names_of_many_parts",
    lambda f: pth(
        b"\x80\x02" + dictionary(*((text(b"%d." % n + b"a." * 480 + b"w"), SMALL_TENSOR) for n in range(300))) + b".",
        _0=bytes(12),
    ),
)
TWICE = [dictionary((text(b"a"), b"h" + bytes([n])), (text(b"b"), b"h" + bytes([n]))) for n in range(60)]
MODULES = b"".join(module(twice, b"}") + b"q" + bytes([n + 1]) + b"0" for n, twice in enumerate(TWICE))
_register(
    "modules_doubled",
    lambda f: pth(b"\x80\x02" + module(b"}", OWN[1]) + b"q\x000" + MODULES + b"h\x3c.", _0=bytes(12)),
)
_register("legacy_keys_of_lists", lambda f: legacy(b"\x80\x02" + NETWORK + b".", b"\x80\x02]]a."))
_register("legacy_storage_missing", lambda f: legacy(b"\x80\x02" + NETWORK + b".", b"\x80\x02].", b""))
_register(
    "legacy_other_length", lambda f: legacy(b"\x80\x02" + NETWORK + b".", data=struct.pack("<q", 2**40) + bytes(12))
)
_register(
    "legacy_negative_length", lambda f: legacy(b"\x80\x02" + NETWORK + b".", data=struct.pack("<q", -3) + bytes(12))
)
_register("pickle_of_something_else", lambda f: pickle.dumps({"a": [1, 2]}, 2))
_register("safetensors_bfloat16_too_long", lambda f: safetensors({"a/weight": entry(0, 24, (3,), "BF16")}))
_register("safetensors_float8", lambda f: safetensors({"a/weight": entry(0, 24, (24,), "F8_E4M3")}))
_register("safetensors_many_axes", lambda f: safetensors({"a/weight": entry(0, 4, (1,) * 70)}, bytes(4)))
_register("keys_that_are_numbers", lambda f: npy(b"\x80\x02}K\x01]s."))
_register("caffe_doubles_cut_off", lambda f: caffe(field(7, field(1, 3)) + field(8, bytes(20))))
_register("graph_of_tensorflow", lambda f: field(1, field(1, b"conv1/weights") + field(2, b"Const")) * 3)


@attack
def folder_without_weights(folder):
    (folder / "model").mkdir()
    return folder / "model"


@attack
def folder_of_two_checkpoints(folder):
    (folder / "run").mkdir()
    for name in ("a.index", "b.index"):
        write(folder / "run", b"x", name)
    return folder / "run"


# Caffe: name "x", then layer 100 with name "conv1", type "Convolution" and blobs.
def field(number: int, content: bytes | int) -> bytes:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def caffe(blob: bytes, kind: bytes = b"Convolution") -> bytes:
    return field(1, b"x") + field(100, field(1, b"conv1") + field(2, kind) + field(7, blob))


_register("caffe_terabytes", lambda f: caffe(field(7, field(1, 10**6) + field(1, 10**6)) + field(5, bytes(12))))
_register("caffe_doubles", lambda f: caffe(field(7, field(1, 3)) + field(8, bytes(24))))
_register("caffe_cut_off", lambda f: caffe(field(7, field(1, 3)) + field(5, bytes(12)))[:-5])
_register("caffe_endless_number", lambda f: field(1, b"x") + field(100, b"\xff" * 40))
_register("caffe_overflow", lambda f: caffe(field(7, field(1, 2**63) + field(1, 2)) + field(5, bytes(12))))
_register(
    "caffe_many_blobs",
    lambda f: (
        field(1, b"x")
        + field(
            100,
            field(1, b"conv1") + field(2, b"Convolution") + 9 * field(7, field(7, field(1, 3)) + field(5, bytes(12))),
        )
    ),
)


# Frozen graphs of TensorFlow: nodes, each with a name, an operator, inputs and attributes.
def tf_node(name: str, operator: str, *inputs: str, **attributes: bytes) -> bytes:
    entries = [field(1, key.encode()) + field(2, value) for key, value in attributes.items()]
    read = [field(3, each.encode()) for each in inputs]
    return field(1, field(1, name.encode()) + field(2, operator.encode()) + b"".join(read) + b"".join(
        field(5, entry) for entry in entries))  # fmt: skip


def tf_const(name: str, data: bytes, *shape: int, kind: int = 1, where: int = 4) -> bytes:
    sizes = b"".join(field(2, field(1, size)) for size in shape)
    return tf_node(name, "Const", value=field(8, field(1, kind) + field(2, sizes) + field(where, data)))


def tf_list(*numbers: int) -> bytes:
    return field(1, b"".join(field(3, n % 2**64) for n in numbers))


VALID = {"strides": tf_list(1, 1, 1, 1), "padding": field(2, b"VALID")}
IMAGE, KERNEL = tf_node("x", "Placeholder"), tf_const("w", bytes(12), 1, 1, 3, 1)
CONV = tf_node("y", "Conv2D", "x", "w", **VALID)
AXIS = tf_const("axis", struct.pack("<i", 3), kind=3)


def graph(*nodes: bytes) -> Callable[[Path], bytes]:
    return lambda folder: b"".join((IMAGE, KERNEL, CONV, AXIS, *nodes))


def repeated(operator: str, count: int, inputs: int, *more: str, **attributes: bytes) -> list[bytes]:
    """A chain of nodes, each of which reads the one before."""
    names = ["y", *(f"n{n}" for n in range(count))]
    return [tf_node(name, operator, *[before] * inputs, *more, **attributes) for before, name in pairwise(names)]


_register("pb_terabytes", graph(tf_const("a", bytes(12), 10**6, 10**6), tf_node("z", "Mul", "y", "a")))
_register("pb_one_for_terabytes", graph(tf_const("a", bytes(4), 10**6, 10**6, where=5), tf_node("z", "Mul", "y", "a")))
_register(
    "pb_one_for_many_megabytes",
    graph(*(tf_const(f"a{n}", bytes(4), 2**18, where=5) for n in range(500)), tf_node("z", "Mul", "y", "a1")),
)
_register(
    "pb_filled_with_terabytes",
    graph(
        tf_const("s", struct.pack("<2i", 10**6, 10**6), 2, kind=3),
        tf_const("v", bytes(4)),
        tf_node("z", "Fill", "s", "v"),
    ),
)
_register("pb_negative_shape", graph(tf_const("a", bytes(12), 2**64 - 3), tf_node("z", "Mul", "y", "a")))
_register("pb_shape_of_many_axes", graph(tf_const("a", bytes(4), *[1] * 70), tf_node("z", "Mul", "y", "a")))
_register(
    "pb_many_integers",
    graph(tf_const("s", b"\1" * 10**6, 10**6, kind=3, where=7), tf_node("z", "Reshape", "y", "s")),
)
_register("pb_reads_itself", graph(tf_node("z", "Relu", "z")))
_register("pb_loop", graph(tf_node("a", "Relu", "b"), tf_node("b", "Relu", "a")))
_register("pb_reads_nothing", graph(tf_node("z", "Relu", "elsewhere")))
_register("pb_two_of_one_name", graph(CONV))
_register("pb_no_image", lambda f: KERNEL + tf_node("y", "Conv2D", "w", "w", **VALID))
_register("pb_nothing_convolved", lambda f: IMAGE + KERNEL + tf_node("z", "Mul", "x", "w"))
_register("pb_convolution_of_nothing", lambda f: IMAGE + tf_node("y", "Conv2D", **VALID))
_register("pb_two_strides", lambda f: IMAGE + KERNEL + tf_node("y", "Conv2D", "x", "w", strides=tf_list(1, 1)))
_register("pb_padding_of_numbers", lambda f: IMAGE + KERNEL + tf_node("y", "Conv2D", "x", "w", padding=field(3, 7)))
_register(
    "pb_too_few_paddings",
    lambda f: (
        IMAGE
        + KERNEL
        + tf_node("y", "Conv2D", "x", "w", strides=tf_list(1, 1, 1, 1), padding=field(2, b"EXPLICIT"),
                  explicit_paddings=tf_list(1))
    ),
)  # fmt: skip
_register("pb_not_frozen", graph(tf_node("v", "VariableV2")))
_register("pb_runs_python", graph(tf_node("z", "PyFunc", "y", token=field(2, b"pyfunc_0"))))
_register("pb_writes_a_file", lambda f: graph(
    tf_const("f", b"", where=8, kind=7), tf_node("z", "WriteFile", "f", "f"))(f))  # fmt: skip
_register("pb_calls_a_function", graph(tf_node("z", "PartitionedCall", "y", f=field(10, field(1, b"f")))))
_register("pb_joined_with_itself", graph(*repeated("ConcatV2", 60, 2, "axis")))
_register("pb_added_to_itself", graph(*repeated("AddV2", 60, 2)))
_register("pb_many_steps", graph(*repeated("Relu", 5_000, 1)))
_register("pb_many_nodes", graph(*repeated("Identity", 20_001, 1)))
_register(
    "pb_groups_of_one_kernel",
    graph(
        tf_const("k", bytes(4 << 20), 1, 1, 1, 1 << 20),
        tf_node("s", "Split", "axis", "x", num_split=field(3, 40)),
        *(tf_node(f"c{n}", "Conv2D", f"s:{n}" if n else "s", "k", **VALID) for n in range(40)),
        tf_node("z", "ConcatV2", *(f"c{n}" for n in range(40)), "axis"),
    ),
)
_register("pb_cut_off", lambda f: graph(tf_node("z", "Relu", "y"))(f)[:-5])


# ONNX.
def onnx_model(folder: Path, location: str | None = None, dims=(3, 1, 1, 1), data: bytes = bytes(12), kind: int = 1):
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", dims=dims, data_type=kind)
    if location is None:
        weight.raw_data = data
    else:
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight]))
    assert isinstance(model, onnx.ModelProto)
    return write(folder, model.SerializeToString(), "model.onnx")


ATTACKS["onnx_climbs"] = lambda folder: onnx_model(folder, "../../../../../../etc/passwd")
ATTACKS["onnx_absolute"] = lambda folder: onnx_model(folder, "/etc/passwd")
ATTACKS["onnx_device"] = lambda folder: onnx_model(folder, "../../../../../../dev/zero")
ATTACKS["onnx_terabytes"] = lambda folder: onnx_model(folder, dims=(10**6, 10**6, 1, 1))
ATTACKS["onnx_negative"] = lambda folder: onnx_model(folder, dims=(-3, -1, 1, 1))
ATTACKS["onnx_text"] = lambda folder: onnx_model(folder, kind=8)
ATTACKS["onnx_no_such_type"] = lambda folder: onnx_model(folder, kind=99)


@attack
def onnx_symbolic_link(folder):
    (folder / "beside.data").symlink_to("/etc/passwd")
    return onnx_model(folder, "beside.data")


@attack
def onnx_constant_of_terabytes(folder):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    shape = numpy_helper.from_array(np.array([10**6, 10**6, 1, 1]), "s")
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [shape]))
    assert isinstance(model, onnx.ModelProto)
    return write(folder, model.SerializeToString(), "model.onnx")


def prepared_onnx(folder: Path, operator: str, constant: np.ndarray, rank: int = 3):
    """A LeNet with a node before its first layer."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    shapes = {"w1": (20, 1, 5, 5), "w2": (50, 20, 5, 5), "w3": (500, 3200), "w4": (10, 500)}
    weights = [numpy_helper.from_array(generator.random(shape, np.float32), name) for name, shape in shapes.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    nodes = [
        helper.make_node(operator, ["x", "c"], ["p"]),
        helper.make_node("Conv", ["p", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["b"]),
        helper.make_node("Gemm", ["b", "w3"], ["d"], transB=1),
        helper.make_node("Gemm", ["d", "w4"], ["y"], transB=1),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [*weights, numpy_helper.from_array(constant, "c")])
    return write(folder, helper.make_model(graph).SerializeToString(), "model.onnx")


ATTACKS["onnx_image_times_zero"] = lambda folder: prepared_onnx(folder, "Mul", np.zeros(1, "f4"))
ATTACKS["onnx_image_by_zero"] = lambda folder: prepared_onnx(folder, "Div", np.zeros(3, "f4"))
ATTACKS["onnx_image_plus_nan"] = lambda folder: prepared_onnx(folder, "Add", np.full(3, np.nan, "f4"))
ATTACKS["onnx_image_of_pixels"] = lambda folder: prepared_onnx(folder, "Add", np.zeros((1, 1, 28, 28), "f4"))
ATTACKS["onnx_image_of_text"] = lambda folder: prepared_onnx(folder, "Add", np.array([b"a"], object))
ATTACKS["onnx_channel_far_off"] = lambda folder: prepared_onnx(folder, "Gather", np.array([2**40]))


def onnx_chain(folder: Path, operator: str, count: int, inputs: int, **attributes: int):
    """A convolution, and nodes each of which reads the one before."""
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", f"v{count}")]
    nodes = [helper.make_node("Conv", ["x", "w"], ["v0"])]
    nodes += [helper.make_node(operator, [f"v{n}"] * inputs, [f"v{n + 1}"], **attributes) for n in range(count)]
    weight = numpy_helper.from_array(np.zeros((3, 1, 1, 1), "f4"), "w")
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [weight]))
    return write(folder, model.SerializeToString(), "model.onnx")


ATTACKS["onnx_joined_with_itself"] = lambda folder: onnx_chain(folder, "Concat", 60, 2, axis=1)
ATTACKS["onnx_many_steps"] = lambda folder: onnx_chain(folder, "Relu", 5_000, 1)


# HDF5.
def hdf5(fill: Callable) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import h5py

        with h5py.File(folder / "weights.h5", "w") as file:
            fill(h5py, file, folder)
        return folder / "weights.h5"

    return make


ATTACKS["hdf5_external_link"] = hdf5(
    lambda h5py, file, folder: file.__setitem__("conv1", h5py.ExternalLink("/etc/passwd", "/"))
)
ATTACKS["hdf5_soft_link"] = hdf5(lambda h5py, file, folder: file.__setitem__("conv1", h5py.SoftLink("/")))
ATTACKS["hdf5_loop"] = hdf5(lambda h5py, file, folder: file.create_group("conv1").__setitem__("again", file["/"]))
ATTACKS["hdf5_external_data"] = hdf5(
    lambda h5py, file, folder: file.create_dataset("conv1/kernel", (3,), "<f4", external=[("/etc/passwd", 0, 12)])
)
ATTACKS["hdf5_objects"] = hdf5(
    lambda h5py, file, folder: file.create_dataset("conv1/kernel", data=["a"], dtype=h5py.string_dtype())
)
ATTACKS["hdf5_terabytes"] = hdf5(
    lambda h5py, file, folder: file.create_dataset("conv1/kernel", (10**6, 10**6), "<f4", chunks=(1000, 1000))
)
ATTACKS["hdf5_compressed"] = hdf5(
    lambda h5py, file, folder: file.create_dataset("conv1/kernel", data=np.zeros(10**7, "f4"), compression="gzip")
)
ATTACKS["hdf5_big_endian"] = hdf5(
    lambda h5py, file, folder: file.create_dataset("conv1/kernel", data=np.zeros(3, ">f4"))
)


def _config(text: str) -> Callable:
    def fill(h5py, file, folder):
        file.create_dataset("conv1/kernel", data=np.zeros(3, "f4"))
        file.attrs.create("model_config", text, dtype=h5py.string_dtype())

    return fill


ATTACKS["hdf5_deep_configuration"] = hdf5(_config('{"config":' * 5000 + "1" + "}" * 5000))
ATTACKS["hdf5_eps_of_text"] = hdf5(
    _config('{"class_name": "BatchNormalization", "config": {"epsilon": {"a": 1}, "name": "a"}}')
)


def _layer_in_itself(h5py, file, folder):
    group = file.create_group("model_weights/conv1")
    for name in ("a/kernel:0", "b/c/kernel:0", "b_c/kernel:0"):
        group[name] = np.zeros(3, "f4")
    group.attrs["weight_names"] = np.array([b"a"], dtype="S")


ATTACKS["hdf5_two_of_one_name"] = hdf5(_layer_in_itself)
ATTACKS["hdf5_float64"] = hdf5(lambda h5py, file, folder: file.create_dataset("conv1/kernel", data=np.zeros(3)))


@attack
def hdf5_virtual(folder):
    import h5py

    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (3,))
    with h5py.File(folder / "weights.h5", "w") as file:
        file.create_virtual_dataset("conv1/kernel", layout)
    return folder / "weights.h5"


@attack
def hdf5_cut_off(folder):
    path = hdf5(lambda h5py, file, folder: file.create_dataset("conv1/kernel", data=np.zeros(3000, "f4")))(folder)
    path.write_bytes(path.read_bytes()[:-8000])
    return path


@attack
def named_pipe(folder):
    import os

    os.mkfifo(folder / "weights.npy")
    return folder / "weights.npy"
