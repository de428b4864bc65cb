"""`triptych doctor`: what is installed, and what is missing."""

from __future__ import annotations

from typing import Any

from common.cli.app import Json, app, print_json
from common.cli.terminal import plain_table, standard_output


@app.command()
def doctor(json: Json = False) -> None:
    """List versions, devices and kernels. Say what is missing and how to install it."""
    from common.onnx.adapters import describe_adapters
    from common.parity.backends import BACKENDS
    from common.parity.environment import describe
    from common.parity.kernels import kernels_by_default

    found = describe() | {"webgpu": describe_adapters()}
    found["backends"] = {
        backend.name: backend.how_to_install if backend.missing else "ready" for backend in BACKENDS.values()
    }
    if json:
        print_json(found | {"kernels": kernels_by_default()})
        return
    _print_facts(found)
    _print_facts({"kernels": kernels_by_default()})  # which takes the frameworks seconds to tell


def _print_facts(found: dict[str, Any]) -> None:
    from rich.text import Text

    table = plain_table("", "", "", show_header=False)
    for heading, content in found.items():
        rows = content.items() if isinstance(content, dict) else [("", str(content))]
        for number, (name, value) in enumerate(rows):
            table.add_row("" if number else Text(heading, style="bold"), name, str(value))
    standard_output().print(table)
