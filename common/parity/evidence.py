"""How one knows which kernels ran: what the libraries of a running process tell of themselves.

oneDNN and MKL, asked by a variable, print the instruction set that they dispatch on and every kernel that they run.
XLA leaves the machine code that it made in a folder. PyTorch, TensorFlow, JAX and ONNX Runtime answer questions
(`kernels` in each implementation's backend.py, and in `common.onnx.session`). A backend's process collects all of it in
a folder that the variable `FOLDER` names; where there is none, only the questions are asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

FOLDER = "TRIPTYCH_EVIDENCE"
"""The variable that names the folder of a process."""

_PRINTED = "printed"
_COMPILED = "compiled"


def listening(folder: Path) -> dict[str, str]:
    """The variables that make a process's libraries write into this folder what they do. Flags are to be added."""
    return {
        FOLDER: str(folder),
        "ONEDNN_VERBOSE": "1",
        "MKL_VERBOSE": "1",
        "XLA_FLAGS": f"--xla_dump_to={folder / _COMPILED}",
    }


def catch_what_is_printed() -> None:
    """Send what this process's libraries print on standard output into the folder, if there is one."""
    if FOLDER in os.environ:
        with (Path(os.environ[FOLDER]) / _PRINTED).open("wb") as file:
            os.dup2(file.fileno(), 1)


class Witness:
    """Reads what has been printed, run by run. A library prints its version once, at its first use."""

    def __init__(self) -> None:
        self.file = Path(os.environ[FOLDER]) / _PRINTED if FOLDER in os.environ else None
        self.lines: list[str] = []
        self.passed = 0

    def begin(self) -> None:
        """Forget the kernels that have run so far."""
        self._read()
        self.passed = len(self.lines)

    def tell(self) -> dict[str, str]:
        """For each library: its version, its instruction set, and the kernels that have run since `begin`."""
        self._read()
        return onednn(self.lines, self.lines[self.passed :]) | mkl(self.lines, self.lines[self.passed :])

    def _read(self) -> None:
        if self.file is not None:
            self.lines = self.file.read_text(errors="replace").splitlines()


_ONEDNN_VERSION = re.compile(r"^onednn_verbose,.*oneDNN v([\d.]+)")
_ONEDNN_ISA = re.compile(r"^onednn_verbose,.*cpu,isa:(.+)")
_ONEDNN_RUN = re.compile(r"^onednn_verbose,(?:v1,)?(?:[\d.]+,)?(?:primitive,)?exec,cpu,([^,]+),([^,]*),")
_MKL_HEADER = re.compile(
    r"^MKL_VERBOSE (?:one|Intel\(R\) )MKL ([\d.]+(?: Update \d+)?).*? architecture .*?\(Intel\(R\) ([^)]+)\)"
)
_MKL_RUN = re.compile(r"^MKL_VERBOSE (\w+)\(")


def onednn(lines: list[str], of_run: list[str]) -> dict[str, str]:
    """From oneDNN's verbose lines: version, instruction set, and the kernels of a run except reorderings.

    The part after "with" in the name of an instruction set is for integers and short floating-point types.
    """
    kernels: dict[str, set[str]] = {}
    for kind, kernel in _matches(_ONEDNN_RUN, of_run):
        if kind != "reorder":
            kernels.setdefault(kind.removesuffix("_api"), set()).add(kernel)
    if not kernels:
        return {}
    version = next(_matches(_ONEDNN_VERSION, lines), ("of unknown version",))[0]
    isa = next(_matches(_ONEDNN_ISA, lines), ("unknown instructions",))[0]
    ran = "; ".join(f"{kind} {' '.join(sorted(names))}".strip() for kind, names in sorted(kernels.items()))
    return {"oneDNN": f"{version} {isa.removeprefix('Intel ').partition(' with')[0]}: {ran}"}


def mkl(lines: list[str], of_run: list[str]) -> dict[str, str]:
    """From MKL's verbose lines: version, instruction set, and the routines of a run."""
    routines = {name for (name,) in _matches(_MKL_RUN, of_run)}
    header = next(_matches(_MKL_HEADER, lines), None)
    return {"MKL": f"{' '.join(header)}: {' '.join(sorted(routines))}"} if header and routines else {}


def _matches(pattern: re.Pattern[str], lines: list[str]) -> Iterator[tuple[str, ...]]:
    return (match.groups() for line in lines if (match := pattern.match(line)))


def compiled_by_xla(what: str = "") -> dict[str, str]:
    """A fingerprint of the machine code that XLA has made in this process; empty if it made none.

    XLA makes none for an operation that it leaves to a library, such as a single convolution.

    Args:
        what: only functions with this in their names.
    """
    folder = Path(os.environ[FOLDER]) / _COMPILED if FOLDER in os.environ else None
    files = sorted(path for path in folder.glob("*.o") if what in path.name) if folder else []
    code = sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    return {"XLA": f"machine code {code}"} if files else {}


def threads(called: str | None = None) -> dict[str, str]:
    """The number of threads of this process, or of those with a name; empty if the system does not tell.

    For libraries that do not tell it themselves. Most of TensorFlow's threads have no names.
    """
    try:
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    except OSError:
        return {}
    return {"threads in all": str(len(names))} if called is None else {"threads": str(names.count(called))}


def as_text(evidence: Mapping[str, str]) -> str:
    """One line of all that is known."""
    return "; ".join(f"{library} {what}" for library, what in evidence.items())
