"""External signal encoders as the signal side of a teacher: their weights from a local file, their answers checked.

An encoder is anything that gives one vector a recording. What it wants (rate, length, order of leads, unit) is in the settings;
whether that is right is seen on known recordings, for which the encoder's own code has said what it answers. A wrong order of
leads or a wrong unit gives no error otherwise, only a worse teacher.

Settings and weights are data, and data runs no code: TorchScript cannot reach files or programs (though it can loop for
ever), safetensors hold numbers, torch.export's ``.pt2`` is refused since loading it unpickles, and a ``factory`` is called
only if whoever started the command named its module (``trust``).
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
from ecgscan_ray.model.reader import join
from ecgscan_ray.recording.leads import LEAD_LAWS, LEADS

TOLERANCE = 1e-3
"""Most that an answer on a known recording may differ, as a share of its length."""

MAX_LAW_RESIDUAL_MV = 0.05
PLAUSIBLE_PEAK_MV = (0.1, 20.0)

OTHER_ORDERS = {
    "aVF before aVL": ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:]),
    "Cabrera's order": ("aVL", "I", "aVR", "II", "aVF", "III", *LEADS[6:]),
    "the usual order": LEADS,
}
OTHER_UNITS = {"V": 1e-3, "mV": 1.0, "uV": 1e3, "steps of 5 uV": 200.0}


class SignalEncoder(Protocol):
    """Leads (N, 12, T) at its own rate, order and unit -> (N, E)."""

    def __call__(self, signal: Tensor, /) -> Tensor: ...


def load_external(config: ExternalEncoderConfig) -> SignalEncoder:
    """The encoder with its weights, on the CPU, its answers checked on the known recordings.

    Raises:
        ConfigError: It cannot be loaded, or answers otherwise than it should: the line says what is the matter.
    """
    encoder = _load(config)
    _check(config, encoder)
    return encoder


_trusted: set[str] = set()


def trust(modules: Iterable[str]) -> None:
    """Let a ``factory`` of these modules run in this process. Only for names that a person has given for this command."""
    _trusted.update(modules)


def trusted() -> tuple[str, ...]:
    """The modules named to ``trust``, for the processes of the same command."""
    return tuple(sorted(_trusted))


def _load(config: ExternalEncoderConfig) -> SignalEncoder:
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
            return _made(config.factory, path)
        return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch, safetensors and the factory raise what they like
        what = f"cannot be loaded ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]})"
        raise ConfigError(what, where=config.factory or path) from None


def _refuse_untrusted(factory: str) -> None:
    module = factory.partition(":")[0]
    if module not in _trusted:
        what = f"would run code of the module '{module}', which the settings alone cannot allow"
        raise ConfigError(what, where="teacher.encoder.factory", fix=f"If you trust it, add --trust {module}.")


def _made(factory: str, weights: Path) -> nn.Module:
    name, _, function = factory.partition(":")
    module: nn.Module = getattr(importlib.import_module(name), function)()
    module.load_state_dict(load_file(weights))
    return module.eval()


def answer(
    config: ExternalEncoderConfig,
    encoder: SignalEncoder,
    signal_mv: Tensor,
    leads: tuple[str, ...],
    units_per_mv: float,
) -> Tensor:
    """What the encoder says of leads given in the order of ``LEADS``, in mV, at its own rate: (N, 12, T) -> (N, E).

    Raises:
        ConfigError: It gives something else than one vector of ``dim`` a recording.
    """
    order = [LEADS.index(name) for name in leads]
    try:
        with torch.no_grad():
            found = encoder(signal_mv[:, order] * units_per_mv)
    except Exception as error:  # foreign code
        reason = (str(error).strip().splitlines() or [""])[-1][:160]
        raise ConfigError(f"fails on a recording ({type(error).__name__}: {reason})", where=config.path) from None
    if not isinstance(found, Tensor) or found.shape != (len(signal_mv), config.dim):
        got = f"{tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"gives {got}, not {(len(signal_mv), config.dim)}", where=config.path)
    return found.float()


def wanted_leads(config: ExternalEncoderConfig) -> tuple[str, ...]:
    """The order of leads that the encoder wants.

    Raises:
        ConfigError: Not each of the twelve once.
    """
    leads = config.leads or LEADS
    if sorted(leads) != sorted(LEADS):
        raise ConfigError(f"not each of {' '.join(LEADS)} once", where="teacher.encoder.leads")
    return leads


def _check(config: ExternalEncoderConfig, encoder: SignalEncoder) -> None:
    (signal, expected), own = _known(config), wanted_leads(config)

    def error(leads: tuple[str, ...], units: float) -> float:
        difference = answer(config, encoder, signal, leads, units) - expected
        return float((difference.norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)).max())

    stated = error(own, config.units_per_mv)
    if stated <= TOLERANCE:
        return
    what = f"its answers on the known recordings are off by {100 * stated:.3g} %"
    for order, leads in {"": own, **OTHER_ORDERS}.items():
        for unit, units in {"": config.units_per_mv, **OTHER_UNITS}.items():
            if error(leads, units) <= TOLERANCE:
                right = [f"teacher.encoder.leads={list(leads)} ({order})"] if order else []
                right += [f"teacher.encoder.units_per_mv={units:g} ({unit})"] if unit else []
                raise ConfigError(what, where=config.path, fix=f"They are right with {' and '.join(right)}.")
    raise ConfigError(what, where=config.path, fix="No other order of leads or unit helps: other weights?")


def _known(config: ExternalEncoderConfig) -> tuple[Tensor, Tensor]:
    """Known recordings (K, 12, T) and the answers to them (K, E); the recordings themselves have to be in order."""
    where = config.known
    try:
        content = load_file(where)
        signal, expected = content["signal_mv"].float(), content["embedding"].float()
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        fix = "Give a safetensors file with signal_mv (K, 12, T) and embedding (K, E)."
        raise ConfigError(f"not readable ({type(error).__name__})", where=where, fix=fix) from None
    samples = round(config.fs * config.seconds)
    if signal.shape[1:] != (12, samples) or expected.shape != (len(signal), config.dim):
        found = f"signal_mv {tuple(signal.shape)} and embedding {tuple(expected.shape)}"
        raise ConfigError(f"holds {found}, not (K, 12, {samples}) and (K, {config.dim})", where=where)
    low, high = PLAUSIBLE_PEAK_MV
    peak = float(signal.abs().amax(-1).amax(-1).median())
    if not low <= peak <= high:
        raise ConfigError(f"its recordings are not in mV (peak {peak:.3g})", where=where)
    residual = float(torch.einsum("kl,nlt->nkt", torch.from_numpy(LEAD_LAWS), signal).abs().max())
    if residual > MAX_LAW_RESIDUAL_MV:
        what = f"its recordings miss the lead laws by {residual:.2g} mV: their leads are not in the order {' '.join(LEADS)}"
        raise ConfigError(what, where=where)
    return signal, expected


class ExternalSignalEncoder(nn.Module):
    """An external encoder, frozen, with linear heads to level and timing.

    Its weights stay in their own file and out of checkpoints; they are loaded when the first recording comes.

    Args:
        external: What it is and wants.
        config: Model settings.
    """

    def __init__(self, external: ExternalEncoderConfig, config: ModelConfig) -> None:
        super().__init__()
        self.external, self.timing_share = external, config.timing_share
        self._encoder: list[SignalEncoder] = []  # in a list, so that it is no part of the module
        self.norm = nn.LayerNorm(external.dim)
        self.level, self.timing = (
            nn.Linear(external.dim, config.content_dim),
            nn.Linear(external.dim, config.timing_dim),
        )

    def forward(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm in fp32."""
        if not self._encoder:
            encoder = load_external(self.external)
            self._encoder.append(encoder.to(signal_mv.device) if isinstance(encoder, nn.Module) else encoder)
        samples = round(self.external.fs * self.external.seconds)
        if signal_mv.shape[-1] != samples:
            signal_mv = F.interpolate(signal_mv, samples, mode="linear", align_corners=False)
        external = self.external
        said = answer(external, self._encoder[0], signal_mv, wanted_leads(external), external.units_per_mv)
        said = self.norm(said)
        return join(self.level(said), self.timing(said), self.timing_share)
