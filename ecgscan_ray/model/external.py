"""External signal encoders as the signal side of a teacher: weights from a local file, embeddings checked.

An encoder is anything that gives one vector per recording. Its input format (rate, length, order of leads, unit) is in the
settings, and is checked on known recordings with the embeddings that the encoder's original code gives for them: a wrong order
of leads or a wrong unit raises no error otherwise, and only makes the teacher worse.

Settings and weights run no code: TorchScript cannot reach files or programs (though it can loop for ever), safetensors hold
numbers, torch.export's ``.pt2`` is refused since loading it unpickles, and a ``factory`` is called only if the command names
its module (``trust``).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ecgscan_ray.config import ExternalEncoderConfig, ModelConfig
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.signal_encoder import join
from ecgscan_ray.recording.leads import LEADS, lead_residual_uv

TOLERANCE = 1e-3
"""Largest relative error (L2) of an embedding of a known recording."""

MAX_LAW_RESIDUAL_UV = 50.0
PLAUSIBLE_PEAK_MV = (0.1, 20.0)

OTHER_ORDERS = {
    "aVF before aVL": ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:]),
    "Cabrera's order": ("aVL", "I", "aVR", "II", "aVF", "III", *LEADS[6:]),
    "the usual order": LEADS,
}
OTHER_UNITS = {"V": 1e-3, "mV": 1.0, "uV": 1e3, "steps of 5 uV": 200.0}


class SignalModel(Protocol):
    """Leads (N, 12, T) at the encoder's rate, order and unit -> (N, E)."""

    def __call__(self, signal: Tensor, /) -> Tensor: ...


def load_external(config: ExternalEncoderConfig) -> SignalModel:
    """The encoder with its weights, on the CPU, checked on the known recordings.

    Raises:
        ConfigError: It cannot be loaded, or its embeddings of the known recordings are wrong.
    """
    encoder = _load(config)
    _check(config, encoder)
    return encoder


TRUSTED: set[str] = set()
"""Modules whose code this process may run; ``trust`` adds to them."""


def trust(modules: Iterable[str]) -> None:
    """Let a ``factory`` of these modules run in this process. Only for names that the user gave on the command line."""
    TRUSTED.update(modules)


def trusted() -> tuple[str, ...]:
    """The trusted modules, to be passed on to other processes of the same command."""
    return tuple(sorted(TRUSTED))


def _load(config: ExternalEncoderConfig) -> SignalModel:
    path = Path(config.path)
    if not path.is_file():
        raise ConfigError("no such file", where=path, fix="Set teacher.encoder.path to the weights.")
    if path.suffix == ".pt2":
        fix = "Save it as TorchScript (torch.jit.trace), or as safetensors with a factory."
        raise ConfigError("torch.export files run code when they are loaded", where=path, fix=fix)
    if config.factory is not None:
        _refuse_untrusted(config.factory)
    try:
        if config.factory is not None:
            return _build(config.factory, path)
        return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch, safetensors and the factory raise anything
        what = f"cannot be loaded ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]})"
        raise ConfigError(what, where=config.factory or path) from None


def _refuse_untrusted(factory: str) -> None:
    module = factory.partition(":")[0]
    if module not in TRUSTED:
        what = f"would run code of the module '{module}', which the settings alone cannot allow"
        raise ConfigError(what, where="teacher.encoder.factory", fix=f"If you trust it, add --trust {module}.")


def _build(factory: str, weights: Path) -> nn.Module:
    name, _, function = factory.partition(":")
    module: nn.Module = getattr(importlib.import_module(name), function)()
    module.load_state_dict(load_file(weights))
    return module.eval()


def embed(
    config: ExternalEncoderConfig,
    encoder: SignalModel,
    signal_mv: Tensor,
    leads: tuple[str, ...],
    units_per_mv: float,
) -> Tensor:
    """The encoder's embeddings of leads given in the order of ``LEADS``, in mV, at its rate: (N, 12, T) -> (N, E).

    Raises:
        ConfigError: It fails, or returns something else than one vector of ``dim`` per recording.
    """
    order = [LEADS.index(name) for name in leads]
    try:
        with torch.no_grad():
            embeddings = encoder(signal_mv[:, order] * units_per_mv)
    except Exception as error:  # foreign code
        reason = (str(error).strip().splitlines() or [""])[-1][:160]
        raise ConfigError(f"fails on a recording ({type(error).__name__}: {reason})", where=config.path) from None
    if not isinstance(embeddings, Tensor) or embeddings.shape != (len(signal_mv), config.dim):
        returned = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise ConfigError(f"returns {returned}, not {(len(signal_mv), config.dim)}", where=config.path)
    return embeddings.float()


def lead_order(config: ExternalEncoderConfig) -> tuple[str, ...]:
    """The order of leads that the encoder takes.

    Raises:
        ConfigError: Not each of the twelve once.
    """
    leads = config.leads or LEADS
    if sorted(leads) != sorted(LEADS):
        raise ConfigError(f"not each of {' '.join(LEADS)} once", where="teacher.encoder.leads")
    return leads


def _check(config: ExternalEncoderConfig, encoder: SignalModel) -> None:
    (signal, expected), configured = _known(config), lead_order(config)

    def error(leads: tuple[str, ...], units: float) -> float:
        difference = embed(config, encoder, signal, leads, units) - expected
        return float((difference.norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)).max())

    relative_error = error(configured, config.units_per_mv)
    if relative_error <= TOLERANCE:
        return
    what = f"its embeddings of the known recordings are off by {100 * relative_error:.3g} %"
    for order, leads in {"": configured, **OTHER_ORDERS}.items():
        for unit, units in {"": config.units_per_mv, **OTHER_UNITS}.items():
            if error(leads, units) <= TOLERANCE:
                changes = [f"teacher.encoder.leads={list(leads)} ({order})"] if order else []
                changes += [f"teacher.encoder.units_per_mv={units:g} ({unit})"] if unit else []
                raise ConfigError(what, where=config.path, fix=f"They are right with {' and '.join(changes)}.")
    raise ConfigError(
        what, where=config.path, fix="No known order of leads or unit helps: check that the weights match."
    )


def _known(config: ExternalEncoderConfig) -> tuple[Tensor, Tensor]:
    """Known recordings (K, 12, T), checked for unit and lead order, and their embeddings (K, E)."""
    where = config.known
    try:
        content = load_file(where)
        signal, expected = content["signal_mv"].float(), content["embedding"].float()
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        fix = "Give a safetensors file with signal_mv (K, 12, T) and embedding (K, E)."
        raise ConfigError(f"not readable ({type(error).__name__})", where=where, fix=fix) from None
    samples = round(config.fs * config.seconds)
    if signal.shape[1:] != (12, samples) or expected.shape != (len(signal), config.dim):
        shapes = f"signal_mv {tuple(signal.shape)} and embedding {tuple(expected.shape)}"
        raise ConfigError(f"holds {shapes}, not (K, 12, {samples}) and (K, {config.dim})", where=where)
    low, high = PLAUSIBLE_PEAK_MV
    peak = float(signal.abs().amax(-1).amax(-1).median())
    if not low <= peak <= high:
        raise ConfigError(f"its recordings are not in mV (peak {peak:.3g})", where=where)
    residual_uv = max(lead_residual_uv(recording) for recording in signal.numpy())
    if residual_uv > MAX_LAW_RESIDUAL_UV:
        what = f"its recordings miss the lead laws by {residual_uv:.0f} uV: their leads are not in the order {' '.join(LEADS)}"
        raise ConfigError(what, where=where)
    return signal, expected


class ExternalSignalEncoder(nn.Module):
    """An external encoder, frozen, with linear heads to content and timing.

    Its weights stay in their own file and out of checkpoints; they are loaded at the first call.

    Args:
        external: The encoder and its input format.
        config: Model settings.
    """

    def __init__(self, external: ExternalEncoderConfig, config: ModelConfig) -> None:
        super().__init__()
        self.external, self.timing_share = external, config.timing_share
        self._encoder: list[SignalModel] = []  # in a list, so that it is no submodule
        self.norm = nn.LayerNorm(external.dim)
        self.content_head = nn.Linear(external.dim, config.content_dim)
        self.timing_head = nn.Linear(external.dim, config.timing_dim)

    def forward(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm in fp32."""
        if not self._encoder:
            encoder = load_external(self.external)
            self._encoder.append(encoder.to(signal_mv.device) if isinstance(encoder, nn.Module) else encoder)
        samples = round(self.external.fs * self.external.seconds)
        if signal_mv.shape[-1] != samples:
            signal_mv = F.interpolate(signal_mv, samples, mode="linear", align_corners=False)
        external = self.external
        embeddings = embed(external, self._encoder[0], signal_mv, lead_order(external), external.units_per_mv)
        embeddings = self.norm(embeddings)
        return join(self.content_head(embeddings), self.timing_head(embeddings), self.timing_share)
