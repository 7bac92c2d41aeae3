"""Durations as people write them, the same as the ``raft-kv`` program reads them."""

import argparse
import re

_FACTORS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0}
_SECONDS_MAX = 86_400.0


def duration(text: str) -> float:
    """Reads ``10s``, ``500ms`` or ``2m``, as seconds; a bare number is seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a duration as 10s, 500ms or 2m")
    seconds = float(match.group(1)) * _FACTORS[match.group(2)]
    if not 0 < seconds <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a duration of more than nothing and at most a day"
        )
    return seconds
