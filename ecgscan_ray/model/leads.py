"""The leads that were read from a page: embedded by the signal tower, and completed to all twelve.

The decoder works from what is shown:

1. Each lead's samples become columns of features: small convolutions over (mV, shown).
2. Attention from the rhythm at one time to the rhythm at the times at which a lead is shown: where the rhythm looked like
   this, what did the lead do? Features and mV of a lead that is not shown are mixtures of those of its shown columns.
3. A last layer sees all leads of one moment, and a mixture of them that depends on which of them are shown at that moment, so
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

SHARPEST = 30.0
"""Largest factor on the cosines of the attention: e^-60 is still a number in fp32."""


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
        self.column_conv = nn.Conv1d(width, width, 5, padding=2)
        self.lead = nn.Parameter(torch.randn(len(LEADS), width, 1) * 0.1)
        self.unseen = nn.Parameter(torch.randn(width, 1) * 0.1)
        self.query, self.key = (nn.Conv1d(width, 32, 9, padding=4) for _ in range(2))
        self.sharpness = nn.Parameter(torch.tensor([10.0]))
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
        """Leads in mV as read (N, 12, T), 0 where nothing is shown, and what is shown (N, 12, T) bool -> (N, 12, T) in mV."""
        n, leads, _ = leads_mv.shape
        known = F.max_pool1d(shown.to(leads_mv.dtype), self.samples)  # (N, 12, W)
        x = self.embed(torch.stack([leads_mv, shown.to(leads_mv.dtype)], 2).flatten(0, 1))
        features = F.relu(self.column_conv(F.relu(x))).unflatten(0, (n, leads)) + self.lead  # (N, 12, C, W)
        columns = leads_mv.unflatten(-1, (-1, self.samples)).transpose(2, 3)  # (N, 12, S, W)
        cells = self.fill_cells(torch.cat([columns.to(features.dtype), features], 2), known.to(features.dtype))
        mv, states = cells[:, :, : self.samples], cells[:, :, self.samples :]
        states = states + self.unseen * (1 - known)[:, :, None]
        states = F.relu(self.time_conv(states.flatten(0, 1)))
        mv = mv.float() + self.out(states).unflatten(0, (n, leads)).float()
        moment = torch.cat([mv.flatten(1, 2), known.float()], 1)
        mv = mv + self.per_moment_mlp(moment).unflatten(1, (leads, -1)).float()
        return self.mix_leads(mv, known).transpose(2, 3).flatten(2)

    def fill_cells(self, columns: Tensor, known: Tensor) -> Tensor:
        """Columns (N, 12, F, W), of which (N, 12, W) are known: the others become mixtures of their lead's known ones."""
        features = columns[:, :, self.samples :]
        rhythm = (features * known[:, :, None]).sum(1) / known.sum(1).clamp_min(1)[:, None]
        query, key = (F.normalize(conv(rhythm).float(), dim=1) for conv in (self.query, self.key))
        similarity = self.sharpness[0].clamp(1, SHARPEST) * (query.transpose(1, 2) @ key - 1)
        weight = similarity.exp()  # (N, W, W), not a softmax: each lead has its own known columns
        total = torch.einsum("nlw,nvw->nlv", known.float(), weight).clamp_min(1e-30)[:, :, None]
        shown = (columns * known[:, :, None]).flatten(1, 2).to(weight.dtype)
        mixture = (shown @ weight.transpose(1, 2)).unflatten(1, columns.shape[1:3]) / total
        return torch.where(known[:, :, None] > 0, columns, mixture.to(columns.dtype))

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
        self.feature_dim = 2 * pooled

    def forward(self, leads_mv: Tensor, shown: Tensor) -> PageOutput:
        """Embed leads and complete them.

        While training ``redrawn_mv`` is the decoder's alone; else what was read stays as it was read, up to one offset for
        each lead: a page does not show it.

        Args:
            leads_mv: (N, 12, T) in mV, 0 where nothing was read.
            shown: (N, 12, T) bool, what was read.
        """
        read, read_timing = self.signal_encoder.pool_read(leads_mv, shown)
        redrawn = self.decoder(leads_mv, shown).float()
        # detached: the redrawn leads are fitted to the recording alone, or contrast would bend them away from mV
        whole = keep_read(leads_mv, shown, redrawn).detach()
        whole_pooled, whole_timing = self.signal_encoder.pool_read(
            whole - whole.mean(-1, keepdim=True), torch.ones_like(shown)
        )
        content = self.signal_encoder.content_head(whole_pooled) + self.content_head(self.dropout(read))
        return {
            "image_features": self.signal_encoder.join(content, read_timing + whole_timing),
            "features": torch.cat([read, whole_pooled], 1).float(),
            "redrawn_mv": redrawn if self.training else whole,
        }


def keep_read(leads_mv: Tensor, shown: Tensor, redrawn_mv: Tensor) -> Tensor:
    """Redrawn leads with what was read in its place, each lead's offset that of the redrawn one: (N, 12, T)."""
    count = shown.sum(-1, keepdim=True).clamp_min(1)
    offset = ((redrawn_mv - leads_mv) * shown).sum(-1, keepdim=True) / count
    return torch.where(shown, leads_mv + offset, redrawn_mv)
