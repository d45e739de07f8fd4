"""All of a finished run that must not depend on what happened to it."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Account = dict[str, Any]


def account(run: Path) -> "Account":
    """What a run has come to: its result, checkpoints and rows, but for what a clock has measured."""
    from gradlab.checkpoints import load_checkpoint
    from gradlab.tracking.journal import records

    result = json.loads((run / "result.json").read_text())
    found: Account = {key: result.get(key) for key in ("status", "metrics", "steps", "parameters_sha256")}
    for name in ("last", "best"):
        tensors, state = load_checkpoint(run / "checkpoints" / name)
        found |= {f"{name}: {key}": bytes_of(tensor) for key, tensor in tensors.items()}
        for key in ("tensors_sha256", "journal_bytes", "config", "images", "fingerprint"):
            state.pop(key, None)
        for key in ("training_seconds", "round_seconds"):
            state.get("ledger", {}).pop(key, None)
        found[f"{name}: state"] = state
    found["rows"] = [
        (record["step"], {key: value for key, value in record["values"].items() if not key.startswith("throughput/")})
        for record, _ in records(run / "journal.jsonl")
        if record["kind"] == "metrics"
    ]
    states = run / "model" / "layer_states.csv"
    found["layer states"] = states.read_text() if states.exists() else None
    return found


def bytes_of(tensor: "torch.Tensor") -> tuple[str, tuple[int, ...], bytes]:
    import torch

    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def compared(found: "Account", wanted: "Account") -> tuple[list[str], int, int]:
    """What is otherwise than in ``wanted``, in words; and how many rows are missing, and too many."""
    said = [f"{key} differs" for key in {**wanted, **found} if key != "rows" and found.get(key) != wanted.get(key)]
    rows, right = ([json.dumps(row) for row in one["rows"]] for one in (found, wanted))
    lost, doubled = (Counter(right) - Counter(rows)).total(), (Counter(rows) - Counter(right)).total()
    if rows != right:
        said.append(f"rows: {lost} missing, {doubled} too many, or in another order")
    return said, lost, doubled
