"""The leads that were read from a page: embedded by the signal tower, and completed to all twelve.

The decoder begins with what was read and, where nothing was read, each lead's mean beat (``recording.mean_beat.completed``):

1. Each lead's samples become columns of features: small convolutions over (mV, shown), which correct its mV.
2. A last layer sees all leads of one moment, and a mixture of them that depends on which of them are shown at that moment, so
   that the lead laws can be learned.

Letters: N pages, 12 leads, T samples, W columns, S samples of a column, C features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import AugmentConfig, ModelConfig
from ecgscan_ray.model.decoder import ALGEBRA_GAIN
from ecgscan_ray.model.output import PageOutput
from ecgscan_ray.model.signal_encoder import SignalEncoder
from ecgscan_ray.recording.leads import LEADS


class LeadDecoder(nn.Module):
    """Leads as read -> all twelve leads.

    Args:
        config: Model settings (rate and the ``decoder`` section).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.decoder.width
        self.samples = config.signal_fs // config.decoder.columns_per_s
        self.embed = nn.Conv1d(2, width, 3 * self.samples, self.samples, self.samples)
        self.lead = nn.Parameter(torch.randn(len(LEADS), width, 1) * 0.1)
        self.column_conv = nn.Conv1d(width, width, 9, padding=4)
        self.time_conv = nn.Conv1d(width, width, 3, padding=1)
        self.out = nn.Conv1d(width, self.samples, 1)
        samples = self.samples * len(LEADS)
        mixed = nn.Conv1d(2 * samples, samples, 1)
        self.per_moment_mlp = nn.Sequential(nn.Conv1d(samples + len(LEADS), 2 * samples, 1), nn.ReLU(), mixed)
        for last in (self.out, mixed):
            for parameter in last.parameters():
                nn.init.normal_(parameter, std=0.01)
        self.lead_mixing = nn.Linear(len(LEADS), len(LEADS) ** 2)  # which leads are shown -> 12 x 12 weights
        for parameter in self.lead_mixing.parameters():
            nn.init.zeros_(parameter)

    def forward(self, leads_mv: Tensor, shown: Tensor) -> Tensor:
        """Leads in mV, with mean beats where nothing was read, and what was read (bool): (N, 12, T) each -> (N, 12, T) in mV."""
        n, leads, _ = leads_mv.shape
        known = F.max_pool1d(shown.to(leads_mv.dtype), self.samples)  # (N, 12, W)
        x = self.embed(torch.stack([leads_mv, shown.to(leads_mv.dtype)], 2).flatten(0, 1))
        x = (F.relu(x).unflatten(0, (n, leads)) + self.lead).flatten(0, 1)
        states = F.relu(self.time_conv(F.relu(self.column_conv(x))))
        columns = leads_mv.unflatten(-1, (-1, self.samples)).transpose(2, 3)  # (N, 12, S, W)
        mv = columns.float() + self.out(states).unflatten(0, (n, leads)).float()
        moment = torch.cat([mv.flatten(1, 2), known.float()], 1)
        mv = mv + self.per_moment_mlp(moment).unflatten(1, (leads, -1)).float()
        return self.mix_leads(mv, known).transpose(2, 3).flatten(2)

    def mix_leads(self, leads: Tensor, known: Tensor) -> Tensor:
        """Leads (N, 12, S, W) in mV, each corrected by the others of its moment, given which are shown (N, 12, W) then."""
        with torch.autocast(leads.device.type, enabled=False):  # the lead laws are to hold to microvolts
            flags = known.float().transpose(1, 2)
            mixture = ALGEBRA_GAIN * self.lead_mixing(flags).unflatten(2, (len(LEADS), len(LEADS)))
            return leads + torch.einsum("nwkl,nlsw->nksw", mixture, leads.float())


class LeadsEncoder(nn.Module):
    """Leads as read -> embedding and all twelve leads: what is exported for users, beside the page reader.

    The signal tower is the one that embeds recordings: it sees which samples are known, so that a recording and what a page
    shows of it are two views for one tower.

    Args:
        config: Model settings.
        augment: Augmentation of the recordings that are compared with pages; the default where nothing is trained.
    """

    def __init__(self, config: ModelConfig, augment: AugmentConfig | None = None) -> None:
        super().__init__()
        self.embed_dim, self.signal_fs, self.sig_len = config.embed_dim, config.signal_fs, config.sig_len
        self.signal_encoder = SignalEncoder(config, augment or AugmentConfig())
        self.decoder = LeadDecoder(config)
        pooled = 2 * self.signal_encoder.signal.channels
        self.dropout = nn.Dropout(0.5)
        self.content_head = nn.Linear(pooled, config.content_dim)
        self.feature_dim = pooled

    def forward(self, leads_mv: Tensor, shown: Tensor) -> PageOutput:
        """Embed leads and complete them.

        While training ``redrawn_mv`` is the decoder's alone; else what was read stays as it was read, up to one offset for
        each lead: a page does not show it.

        Args:
            leads_mv: (N, 12, T) in mV, mean beats where nothing was read (``recording.mean_beat.completed``).
            shown: (N, 12, T) bool, what was read.
        """
        redrawn, whole = self._complete(leads_mv, shown)
        whole_pooled, whole_timing = self._pool_whole(whole)
        pooled, timing = self.signal_encoder.pool_read(leads_mv * shown, shown)
        content = self.signal_encoder.content_head(whole_pooled) + self.content_head(self.dropout(pooled))
        return {
            "image_features": self.signal_encoder.join(content, timing + whole_timing),
            "features": whole_pooled.float(),
            "redrawn_mv": redrawn if self.training else whole,
        }

    def features(self, leads_mv: Tensor, shown: Tensor) -> Tensor:
        """The features (N, F) for a classifier alone; arguments as of ``forward``.

        They are those of all twelve leads. Pooled features of the leads as read depend on how much of each a page shows: a probe
        that was fitted on one layout fails on others with them.
        """
        return self._pool_whole(self._complete(leads_mv, shown)[1])[0].float()

    def _complete(self, leads_mv: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's leads, and the same with what was read in its place: (N, 12, T) each."""
        redrawn = self.decoder(leads_mv, shown).float()
        # detached: the redrawn leads are fitted to the recording alone, or contrast would bend them away from mV
        return redrawn, keep_read(leads_mv, shown, redrawn).detach()

    def _pool_whole(self, leads_mv: Tensor) -> tuple[Tensor, Tensor]:
        """All twelve leads (N, 12, T) -> pooled channels (N, F), timing."""
        known = torch.ones_like(leads_mv, dtype=torch.bool)
        return self.signal_encoder.pool_read(leads_mv - leads_mv.mean(-1, keepdim=True), known)


def keep_read(leads_mv: Tensor, shown: Tensor, redrawn_mv: Tensor) -> Tensor:
    """Redrawn leads with what was read in its place, each lead's offset that of the redrawn one: (N, 12, T)."""
    count = shown.sum(-1, keepdim=True).clamp_min(1)
    offset = ((redrawn_mv - leads_mv) * shown).sum(-1, keepdim=True) / count
    return torch.where(shown, leads_mv + offset, redrawn_mv)
