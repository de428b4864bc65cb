"""For pytest: `assert_same` as a fixture. Nothing heavy is imported before a test uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_same() -> Callable[..., Any]:
    """`triptych.assert_same`: fails with the node that differs, its error as a multiple of its bound, and the cause."""
    from common.prove.api import assert_same as function

    return function
