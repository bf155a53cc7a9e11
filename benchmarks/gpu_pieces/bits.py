"""Whether training on this device gives the same bits twice, in strict mode."""

import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor

from gpu_pieces.arms import move_interactions, ours, synthetic
from gpu_pieces.steps import Trainee, free

SHOWN = 5  # names of differing tensors that are listed


def run(device: str, family: str, side: int, batch: int, steps: int) -> dict[str, Any]:
    """Verdict for a family's micro size with ACP and CAT, in fp32 and in bf16 autocast."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    return {
        precision: _verdict(device, family, side, batch, steps, precision)
        for precision in ("fp32", "bf16")
    }


def _verdict(
    device: str, family: str, side: int, batch: int, steps: int, precision: str
) -> dict[str, Any]:
    """Train twice; between the two, other memory is in use, so that addresses differ."""
    try:
        losses, weights = trained(device, family, side, batch, steps, precision)
        other = torch.ones(12_345_678, device=device)
        again, weights_again = trained(device, family, side, batch, steps, precision)
        del other
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        names = _without_deterministic_form(device, family, side, batch, precision)
        return {"equal": False, "error": str(error)[:1000], "warnings in lenient mode": names}
    finally:
        free(device)
    different = [name for name in weights if not torch.equal(weights[name], weights_again[name])]
    return {
        "equal": losses == again and not different,
        "losses": losses,
        "losses again": again,
        "tensors": len(weights),
        "different tensors": len(different),
        "first of them": different[:SHOWN],
        "sha256": digest(weights),
    }


def trained(
    device: str, family: str, side: int, batch: int, steps: int, precision: str
) -> tuple[list[str], dict[str, Tensor]]:
    """Losses to the bit, as hexadecimal floats, and weights after a few steps from one seed.

    The update is one kernel, as params.yaml has it.
    """
    torch.manual_seed(0)
    model = ours(family, "micro", enhanced=True)
    move_interactions(model)
    trainee = Trainee(model, *synthetic(side, batch, device), precision, fused=True)
    losses = [float(trainee.step()).hex() for _ in range(steps)]
    return losses, {name: value.cpu() for name, value in model.state_dict().items()}


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes, to compare with another run or machine."""
    whole = hashlib.sha256()
    for name, value in weights.items():
        whole.update(name.encode())
        whole.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _without_deterministic_form(
    device: str, family: str, side: int, batch: int, precision: str
) -> list[str]:
    """What one step warns of where strict mode would raise: all such operations, not the first.

    Attention warns too, that it "defaults to" another algorithm; in strict mode it does not.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trained(device, family, side, batch, 1, precision)
    except RuntimeError as error:
        return [f"lenient mode fails too: {str(error)[:500]}"]
    finally:
        torch.use_deterministic_algorithms(True)
    said = {str(warning.message)[:300] for warning in caught}
    return sorted(text for text in said if "determinis" in text and "defaults to" not in text)
