"""Weights as TensorFlow 1 keeps them: a checkpoint, through a `Saver`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import tensorflow.compat.v1 as tf

METADATA = "triptych"
"""The graph collection of our own metadata, kept in the checkpoint's `.meta`."""


def save_weights(session: tf.Session, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the session's variables as a checkpoint: `path` followed by `.index`, `.data-00000-of-00001` and `.meta`.

    Args:
        session: that `build` made.
        path: the prefix; existing files are replaced.
        metadata: strings to keep with it.
    """
    with session.graph.as_default():
        session.graph.clear_collection(METADATA)
        tf.add_to_collection(METADATA, json.dumps(dict(metadata or {})))
        saver = tf.train.Saver(max_to_keep=1)
        # Not written, but its name, `checkpoint` by default, must not be that of the checkpoint.
        saver.save(session, str(path), latest_filename=f"{Path(path).name}.latest", write_state=False)


def restore_weights(session: tf.Session, path: str | Path) -> None:
    """Load what `save_weights` wrote, by TensorFlow's own means."""
    with session.graph.as_default():
        tf.train.Saver().restore(session, str(path))
