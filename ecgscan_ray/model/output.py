"""What the models return, written once: keys, shapes, units.

Letters: N rows, D embedding, 12 leads, T samples, M layouts, K edges of strips, P positions that are voted on. Positions in
the image (xy) are fractions of its width and height. All floating, fp32 unless said otherwise.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from torch import Tensor


class Features(TypedDict):
    """Embeddings of the three modalities: what the contrastive losses compare."""

    image_features: Tensor
    """(N, D), unit norm."""
    signal_features: Tensor
    """(N, D), unit norm."""
    text_features: Tensor
    """(N, D), unit norm, 0 in the timing part."""


class FrameOutput(TypedDict):
    """The page frame as the model finds it, for ``frame_loss``."""

    frame_corners: Tensor
    """(N, 4, 2) xy of the corners after the last look, for the true or the likeliest layout; without gradient."""
    frame_guess: Tensor
    """(N, M, 4, 2) xy of the corners at first sight, for each layout."""
    layout_logits: Tensor
    """(N, M)."""
    corner_logits: Tensor
    """(N, 4, P), votes on the corners."""
    corner_xy: Tensor
    """(N, 4, P, 2) xy of the positions voted on."""
    edge_logits: Tensor
    """(N, K, P), votes on where strips begin and end."""
    edge_xy: Tensor
    """(N, K, P, 2) xy of the positions voted on."""
    edge_counts: Tensor
    """(N, K), 1 = the layout has this edge, 0 = padding."""
    edge_truth: Tensor
    """(N, K, 2) xy of the edges in the true frame (in evaluation: in the frame found)."""


class PageOutput(TypedDict):
    """What every encoder of pages gives."""

    image_features: Tensor
    """(N, D), unit norm."""
    features: Tensor
    """(N, F) for a classifier: the signal tower's pooled features of all twelve leads, after the backbone's if there is one."""
    redrawn_mv: Tensor
    """(N, 12, T), mV."""


class PictureOutput(PageOutput, FrameOutput):
    """``PageEncoder``'s output."""


class ModelOutput(PageOutput, Features):
    """``ECGScan``'s output; that of pictures also has the entries of ``FrameOutput``."""

    gram_logit_scale: Tensor
    """(), 1 / temperature of the loss over all three."""
    pair_logit_scale: Tensor
    """(), 1 / temperature of the pairwise loss."""
    pair_logit_bias: NotRequired[Tensor]
    """(), SigLIP's bias; absent with InfoNCE."""


class MaskedView(TypedDict):
    """A recording with spans of it masked."""

    hidden: Tensor
    """(N, 12, T) bool, the samples that were masked."""
    masked_view_features: Tensor
    """(N, D), unit norm, of the visible samples."""
    reconstructed_mv: NotRequired[Tensor]
    """(N, 12, T), mV; absent with an external encoder, which has no map to reconstruct from."""


class TeacherOutput(MaskedView):
    """``Teacher``'s output."""

    signal_features: Tensor
    """(N, D), unit norm."""
    text_features: Tensor
    """(N, D), unit norm, 0 in the timing part."""
    pair_logit_scale: Tensor
    """(), 1 / temperature."""
