"""Text tower: a small transformer trained from scratch, or any transformers encoder by name or local path."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import AugmentConfig, ModelConfig, TextTowerConfig
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.signal import sinusoid


class SmallText(nn.Module):
    """Word-piece embeddings and a few transformer layers: (N, L) -> (N, L, F).

    Without layers it is a bag of words: on a few hundred reports it generalises to new wordings, where layers memorise the
    reports.
    """

    def __init__(self, config: TextTowerConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.width, padding_idx=0)
        self.layers: nn.Module | None = None
        if config.depth:
            layer = nn.TransformerEncoderLayer(
                config.width, config.heads, 4 * config.width, config.dropout, "gelu", batch_first=True, norm_first=True
            )
            self.layers = nn.TransformerEncoder(
                layer, config.depth, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
            )

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(token_ids)
        if self.layers is None:
            return x
        x = x + sinusoid(x.shape[1], x.shape[2], x.device)
        return self.layers(x, src_key_padding_mask=attention_mask == 0)


class TextTower(nn.Module):
    """Reports to one vector each, the mean over their tokens.

    Raises:
        ConfigError: The named encoder cannot be loaded.
    """

    def __init__(self, config: TextTowerConfig, vocab_size: int) -> None:
        super().__init__()
        self.small = config.name == "small"
        if self.small:
            self.body: Any = SmallText(config, vocab_size)
            self.dim = config.width
        else:
            from transformers import AutoModel  # takes seconds to import, and the default does not need it

            try:
                self.body = AutoModel.from_pretrained(config.name)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"transformers cannot load it ({str(error).splitlines()[0]})", where=config.name
                ) from error
            self.body = getattr(self.body, "encoder", self.body) if self.body.config.is_encoder_decoder else self.body
            self.dim = self.body.config.hidden_size

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, L) token ids and mask (1 = token) -> (N, F). A row without tokens gives the vector of its first position."""
        mask = attention_mask.clone()
        mask[:, 0] = 1  # softmax over no key at all would be NaN; the objective leaves such rows out
        if self.small:
            states = self.body(token_ids, mask)
        else:
            states = self.body(input_ids=token_ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)


class TextEncoder(nn.Module):
    """Text tower and head. A report describes content and no timing, so it has no timing part.

    Args:
        config: Model settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
        augment: Token dropout, while training.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, augment: AugmentConfig) -> None:
        super().__init__()
        self.text = TextTower(config.text, vocab_size)
        dim = config.content_dim
        self.head = nn.Sequential(nn.Linear(self.text.dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.timing_dim, self.token_dropout = config.timing_dim, augment.token_dropout

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm in fp32, 0 in the timing part."""
        if self.training and self.token_dropout:
            keep = torch.rand(attention_mask.shape, device=attention_mask.device) >= self.token_dropout
            attention_mask = attention_mask * keep
        content = F.normalize(self.head(self.text(token_ids, attention_mask)).float(), dim=-1)
        return F.pad(content, (0, self.timing_dim))
