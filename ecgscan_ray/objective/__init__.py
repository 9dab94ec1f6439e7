"""The losses: features in, scalar out. On one process they need nothing else; ``mask`` and gathered columns make them global."""

from ecgscan_ray.objective.frame import frame_loss
from ecgscan_ray.objective.gram import gram_loss
from ecgscan_ray.objective.pairwise import info_nce_loss, siglip_loss
from ecgscan_ray.objective.reconstruction import reconstruction_loss
from ecgscan_ray.objective.soft_leads import soft_lead_loss
from ecgscan_ray.objective.triangle import triangle_loss

__all__ = [
    "frame_loss",
    "gram_loss",
    "info_nce_loss",
    "reconstruction_loss",
    "siglip_loss",
    "soft_lead_loss",
    "triangle_loss",
]
