"""A numpy batch to tensors on the device: signals in mV, masks expanded."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from ecgscan_ray.batch import READ_STEP_MV, Batch, DeviceBatch

NUM_LIMB_LEADS = 6


def centred(signal_mv: Tensor, valid: Tensor) -> Tensor:
    """Each lead minus its mean over valid samples; 0 where invalid. (N, 12, T) -> (N, 12, T).

    The page does not tell a lead's offset (carts remove it). A mean is linear and keeps the lead laws.
    """
    mean = (signal_mv * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
    return (signal_mv - mean) * valid


def shown_and_derivable(windows: Tensor, fs: float, sig_len: int) -> tuple[Tensor, Tensor]:
    """Which samples a page shows, and which follow from these by the lead laws.

    Args:
        windows: (N, S, 3): lead index (-1 = no strip), start and end in s.
        fs: Samples a second.
        sig_len: T.

    Returns:
        Two bool masks (N, 12, T). A limb lead that is not shown is derivable where two other limb leads are.
    """
    time = (torch.arange(sig_len, device=windows.device) + 0.5) / fs
    in_strip = (windows[:, :, 1, None] <= time) & (time < windows[:, :, 2, None])  # (N, S, T)
    is_lead = windows[:, :, 0, None] == torch.arange(12, device=windows.device)  # (N, S, 12)
    shown = torch.einsum("nst,nsl->nlt", in_strip.float(), is_lead.float()) > 0
    enough = shown[:, :NUM_LIMB_LEADS].sum(1, keepdim=True) >= 2
    derivable = torch.zeros_like(shown)
    derivable[:, :NUM_LIMB_LEADS] = enough & ~shown[:, :NUM_LIMB_LEADS]
    return shown, derivable


def to_device(batch: Batch, device: torch.device | str, fs: float) -> DeviceBatch:
    """The batch as tensors.

    Args:
        batch: From the stream or a ``BatchMaker``.
        device: Of the model.
        fs: Samples a second of the batch's signals.
    """
    longest = max(int(batch["attention_mask"].any(0).sum()), 1)  # padding that no row needs costs attention time
    arrays = cast(dict[str, np.ndarray], batch)
    arrays = {**arrays, **{name: arrays[name][:, :longest] for name in ("token_ids", "attention_mask")}}
    tensors = {name: send(array, torch.device(device)) for name, array in arrays.items()}
    signal = tensors.pop("signal").float() * tensors.pop("signal_scale_mv")[:, None, None]
    valid = _unpack_bits(tensors.pop("valid_bits"), signal.shape[-1])
    tensors |= {
        "token_ids": tensors["token_ids"].long(),
        "signal_mv": signal,
        "centred_mv": centred(signal, valid),
        "valid": valid,
    }
    if "windows" in tensors:
        shown, derivable = shown_and_derivable(tensors["windows"], fs, signal.shape[-1])
        tensors |= {"shown": shown, "derivable": derivable, "unseen": ~(shown | derivable)}
    if "image" in tensors:
        tensors["image"] = tensors["image"].permute(0, 3, 1, 2)
    if "read" in tensors:
        tensors["leads_mv"] = tensors.pop("read").float() * READ_STEP_MV
        tensors["leads_shown"] = _unpack_bits(tensors.pop("read_bits"), signal.shape[-1])
    return cast(DeviceBatch, tensors)


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """An array on the device. To a GPU it goes from pinned memory, and the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _unpack_bits(bits: Tensor, sig_len: int) -> Tensor:
    """``numpy.packbits`` undone: uint8 (N, 12, ceil(T / 8)) -> bool (N, 12, T)."""
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return ((bits[..., None] >> shifts) & 1).flatten(2)[..., :sig_len].bool()
