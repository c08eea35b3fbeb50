"""Says under which licences the weights in use stand."""

import sys
from collections.abc import Iterable
from typing import Any


def licence_lines(records: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each published source among the records of provenance."""
    lines = []
    for record in records:
        if "licence" not in record:  # of what a run learnt from: own teachers, and its data
            continue
        use = "" if record["commercial_use"] else "; not for commercial use"
        lines.append(f"weights of {record['source']}: {record['licence']}{use}")
    return list(dict.fromkeys(lines))


def print_licences(records: Iterable[dict[str, Any]]) -> None:
    for line in licence_lines(records):
        print(line, file=sys.stderr, flush=True)
