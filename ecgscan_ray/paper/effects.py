"""What can happen to a page, as data: every effect with its probability and range of sizes, and presets of them.

``damage.py`` holds what befalls the sheet, ``warp.py`` where it lies, ``camera.py`` what the way into a file does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import ConfigError, near_miss
from ecgscan_ray.paper.key import Draws


@dataclass(frozen=True)
class Effect:
    """Probability, and range of sizes in the unit named in ``EFFECTS``."""

    chance: float
    low: float
    high: float


EFFECTS: dict[str, Effect] = {
    # where the page lies
    "rotation": Effect(1.0, 1.0, 2.0),  # standard deviation and limit / 3, degrees
    "turn": Effect(0.0, 1.0, 1.0),  # one to three quarter turns; the size says nothing
    "perspective": Effect(1.0, 0.0, 0.02),  # share of the page's width
    "page_scale": Effect(1.0, 0.92, 1.02),  # 1 = the page fills the image
    "shift": Effect(1.0, 0.0, 0.02),  # share of the image's side
    "crop": Effect(0.2, 0.02, 0.15),  # share by which the page outgrows the image
    "curl": Effect(0.3, 0.002, 0.012),  # share of the page's width
    # what befell the sheet
    "fold": Effect(0.2, 0.03, 0.2),  # darkening in the fold
    "crease": Effect(0.2, 0.1, 0.6),  # the same, along short creases
    "wrinkle": Effect(0.2, 0.05, 0.35),  # darkening of the darkest facet
    "stain": Effect(0.05, 0.05, 0.25),  # darkening
    "ring": Effect(0.05, 0.1, 0.35),  # the same, of a coffee cup's ring
    "writing": Effect(0.2, 0.6, 0.95),  # share of ink
    "stamp": Effect(0.1, 0.35, 0.8),  # share of ink
    "thermal": Effect(0.1, 0.15, 0.55),  # share of ink that faded where it faded most
    "fade": Effect(0.2, 0.05, 0.35),  # share of ink and grid that faded everywhere
    "pale_ink": Effect(0.3, 0.1, 0.45),  # share by which ink, and not the grid, is nearer to white
    "rim": Effect(0.3, 3.0, 8.0),  # width without grid at the sheet's edge, mm
    "print": Effect(0.3, 0.3, 1.1),  # a grid in colours of the page's own; how dark its 5 mm lines are
    "panels": Effect(0.2, 0.05, 0.25),  # lights and shades of a folded sheet, about their mean
    "crumple": Effect(0.1, 0.05, 0.25),  # the same, of one that was balled up
    # copiers, scanners, faxes
    "threshold": Effect(0.05, 135.0, 195.0),  # grey level below which all is black and above which all is white
    "dither": Effect(0.05, 0.08, 0.25),  # black dots for grey; their pitch, mm
    "grade": Effect(0.2, 0.0, 1.0),  # above 0.5 the colours are lost
    "streak": Effect(0.1, 3.0, 14.0),  # grey levels
    "edge": Effect(0.1, 0.1, 0.5),  # darkening at one side of the page
    # light and colour
    "shading": Effect(0.8, 0.04, 0.3),  # darkening at the darkest corner
    "shadow": Effect(0.3, 0.05, 0.4),  # darkening beyond the shadow's edge
    "glare": Effect(0.08, 0.1, 0.5),  # brightening
    "cast": Effect(0.7, 0.0, 0.06),  # share by which red and blue differ
    "gamma": Effect(0.8, 0.0, 0.3),  # log of the exponent
    "exposure": Effect(0.3, 0.0, 0.3),  # darkening of all
    "white_balance": Effect(0.3, 0.0, 0.08),  # share by which all is bluer or yellower
    "two_lights": Effect(0.3, 0.02, 0.15),  # share by which shades are bluer or yellower
    # the camera; lengths in px at 1.4 px/mm, growing with the image
    "moire": Effect(0.1, 0.03, 0.12),  # contrast
    "blur": Effect(0.8, 0.25, 0.7),  # sigma, px
    "defocus": Effect(0.05, 0.5, 1.4),  # radius, px
    "motion": Effect(0.05, 1.0, 3.0),  # length, px
    "downscale": Effect(0.05, 0.1, 0.45),  # share of the side that was lost in between
    "noise": Effect(0.8, 1.0, 5.0),  # grey levels
    "soft_colour": Effect(0.3, 0.6, 1.6),  # px over which colours, and not light, are spread
    "grain": Effect(0.3, 1.0, 4.0),  # grey levels of cloudy noise
    "sharpen": Effect(0.2, 0.2, 0.8),  # how much of the finest detail the camera adds once more
    "jpeg": Effect(0.6, 50.0, 92.0),  # quality
}

PRESETS: dict[str, dict[str, Effect]] = {
    "clean": {},
    "scan": {
        "rotation": Effect(1.0, 0.6, 1.5),
        "perspective": Effect(1.0, 0.0, 0.003),
        "page_scale": Effect(1.0, 0.97, 1.02),
        "shift": Effect(1.0, 0.0, 0.01),
        "crop": Effect(0.1, 0.01, 0.08),
        "shading": Effect(0.6, 0.01, 0.06),
        "shadow": Effect(0.12, 0.05, 0.2),
        "edge": Effect(0.2, 0.1, 0.5),
        "cast": Effect(0.4, 0.0, 0.03),
        "gamma": Effect(0.7, 0.0, 0.3),
        "blur": Effect(0.5, 0.05, 0.25),
        "noise": Effect(0.2, 0.5, 2.5),
        "grain": Effect(0.8, 0.8, 3.0),
        "sharpen": Effect(0.6, 0.1, 0.8),
        "jpeg": Effect(0.4, 60.0, 95.0),
        "fade": Effect(0.3, 0.05, 0.35),
        "thermal": Effect(0.12, 0.1, 0.5),
        "streak": Effect(0.2, 3.0, 14.0),
        "grade": Effect(1.0, 0.2, 1.0),
        "threshold": Effect(0.05, 135.0, 195.0),
        "dither": Effect(0.35, 0.08, 0.25),
        "pale_ink": Effect(0.4, 0.1, 0.4),
        "print": Effect(0.9, 0.45, 1.15),
        "rim": Effect(0.5, 3.0, 8.0),
        "crease": Effect(0.12, 0.06, 0.3),
        "writing": Effect(0.22, 0.6, 0.95),
        "stamp": Effect(0.15, 0.35, 0.8),
    },
    "photo": {
        "rotation": Effect(1.0, 3.0, 8.0),
        "perspective": Effect(1.0, 0.01, 0.05),
        "page_scale": Effect(1.0, 0.8, 1.02),
        "shift": Effect(1.0, 0.0, 0.03),
        "crop": Effect(0.15, 0.02, 0.15),
        "curl": Effect(0.35, 0.001, 0.01),
        "shading": Effect(1.0, 0.05, 0.3),
        "shadow": Effect(0.45, 0.1, 0.45),
        "exposure": Effect(0.8, 0.0, 0.25),
        "two_lights": Effect(0.7, 0.02, 0.15),
        "cast": Effect(0.8, 0.0, 0.012),
        "white_balance": Effect(0.9, 0.0, 0.08),
        "gamma": Effect(0.9, 0.0, 0.35),
        "blur": Effect(0.6, 0.03, 0.22),
        "defocus": Effect(0.05, 0.4, 1.2),
        "motion": Effect(0.04, 0.5, 2.0),
        "downscale": Effect(0.05, 0.1, 0.4),
        "noise": Effect(0.04, 0.5, 3.0),
        "grain": Effect(1.0, 0.8, 2.6),
        "soft_colour": Effect(0.6, 0.7, 1.8),
        "sharpen": Effect(0.85, 0.1, 0.6),
        "jpeg": Effect(0.25, 65.0, 97.0),
        "fold": Effect(0.35, 0.04, 0.2),
        "crease": Effect(0.4, 0.1, 0.6),
        "wrinkle": Effect(0.08, 0.05, 0.3),
        "panels": Effect(0.4, 0.02, 0.14),
        "crumple": Effect(0.35, 0.02, 0.2),
        "glare": Effect(0.12, 0.1, 0.5),
        "stain": Effect(0.08, 0.05, 0.25),
        "ring": Effect(0.06, 0.1, 0.35),
        "thermal": Effect(0.1, 0.1, 0.5),
        "fade": Effect(0.6, 0.05, 0.35),
        "pale_ink": Effect(0.9, 0.12, 0.52),
        "print": Effect(0.95, 0.6, 1.15),
        "rim": Effect(0.5, 3.0, 8.0),
        "writing": Effect(0.22, 0.6, 0.95),
        "stamp": Effect(0.12, 0.35, 0.8),
    },
    "fax": {
        "rotation": Effect(1.0, 0.3, 1.0),
        "perspective": Effect(1.0, 0.0, 0.002),
        "page_scale": Effect(1.0, 0.96, 1.02),
        "shift": Effect(1.0, 0.0, 0.012),
        "threshold": Effect(0.8, 135.0, 195.0),
        "grade": Effect(1.0, 0.6, 1.0),
        "streak": Effect(0.5, 6.0, 40.0),
        "edge": Effect(0.4, 0.15, 0.7),
        "crease": Effect(0.1, 0.1, 0.4),
        "fade": Effect(0.25, 0.05, 0.25),
        "gamma": Effect(0.5, 0.0, 0.3),
        "blur": Effect(0.7, 0.2, 0.5),
        "noise": Effect(0.6, 0.5, 4.0),
        "jpeg": Effect(0.4, 40.0, 92.0),
        "writing": Effect(0.2, 0.7, 0.95),
        "stamp": Effect(0.2, 0.4, 0.9),
    },
    "screen": {
        "rotation": Effect(1.0, 1.0, 2.5),
        "perspective": Effect(1.0, 0.005, 0.04),
        "page_scale": Effect(1.0, 0.9, 1.05),
        "shift": Effect(1.0, 0.0, 0.03),
        "crop": Effect(0.3, 0.02, 0.12),
        "shading": Effect(0.9, 0.04, 0.3),
        "glare": Effect(0.35, 0.1, 0.5),
        "cast": Effect(0.95, 0.02, 0.12),
        "gamma": Effect(0.9, 0.0, 0.4),
        "moire": Effect(0.95, 0.03, 0.12),
        "blur": Effect(0.85, 0.25, 0.7),
        "defocus": Effect(0.1, 0.4, 1.2),
        "motion": Effect(0.08, 1.0, 2.5),
        "downscale": Effect(0.1, 0.1, 0.35),
        "noise": Effect(0.95, 1.0, 5.0),
        "jpeg": Effect(0.9, 45.0, 92.0),
    },
    "mixed": {
        "rotation": Effect(1.0, 1.2, 1.35),
        "perspective": Effect(1.0, 0.0, 0.025),
        "page_scale": Effect(1.0, 0.92, 1.02),
        "shift": Effect(1.0, 0.0, 0.02),
        "crop": Effect(0.05, 0.02, 0.1),
        "shading": Effect(0.9, 0.04, 0.3),
        "shadow": Effect(0.3, 0.05, 0.35),
        "edge": Effect(0.04, 0.1, 0.4),
        "cast": Effect(0.7, 0.0, 0.06),
        "gamma": Effect(0.8, 0.0, 0.3),
        "blur": Effect(0.85, 0.25, 0.7),
        "defocus": Effect(0.02, 0.4, 1.0),
        "motion": Effect(0.04, 1.0, 2.0),
        "downscale": Effect(0.03, 0.1, 0.35),
        "noise": Effect(0.85, 1.0, 5.0),
        "jpeg": Effect(0.55, 50.0, 92.0),
        "fold": Effect(0.15, 0.03, 0.15),
        "crease": Effect(0.06, 0.1, 0.5),
        "wrinkle": Effect(0.12, 0.05, 0.25),
        "glare": Effect(0.06, 0.1, 0.4),
        "stain": Effect(0.05, 0.05, 0.2),
        "ring": Effect(0.02, 0.1, 0.3),
        "writing": Effect(0.08, 0.6, 0.95),
        "stamp": Effect(0.05, 0.35, 0.8),
        "fade": Effect(0.15, 0.05, 0.3),
        "thermal": Effect(0.04, 0.1, 0.45),
        "grade": Effect(0.2, 0.0, 1.0),
        "threshold": Effect(0.03, 135.0, 195.0),
        "streak": Effect(0.05, 3.0, 14.0),
        "moire": Effect(0.03, 0.03, 0.1),
    },
}
"""Quarter turns are in none of them: they are for those who ask (``page.effect_probabilities: {turn: 0.25}``)."""


def planned(page: PageConfig) -> dict[str, Effect]:
    """The effects that pages of these settings can have: the preset's, with the settings' own probabilities and ranges.

    Raises:
        ConfigError: An effect is not known, or has a size here but no chance anywhere.
    """
    effects = dict(PRESETS[page.effects])
    for name in (*page.effect_probabilities, *page.effect_ranges):
        if name not in EFFECTS:
            where = "page.effect_probabilities" if name in page.effect_probabilities else "page.effect_ranges"
            raise ConfigError(f"no effect named '{name}'", where=where, fix=near_miss(name, EFFECTS))
    for name, chance in page.effect_probabilities.items():
        effects[name] = replace(effects.get(name, EFFECTS[name]), chance=chance)
    for name, (low, high) in page.effect_ranges.items():
        if name not in effects:  # a size alone switches nothing on
            raise ConfigError(
                f"'{name}' is not among the effects of '{page.effects}'",
                where="page.effect_ranges",
                fix=f"Give page.effect_probabilities.{name} too.",
            )
        effects[name] = replace(effects[name], low=low, high=high)
    return {name: effect for name, effect in effects.items() if effect.chance > 0} if page.strength > 0 else {}


class PageEffects:
    """Which effects this page has, and how strong: a view on its draws and a preset."""

    __slots__ = ("_draws", "_preset", "_strength")

    def __init__(self, draws: Draws, preset: dict[str, Effect], strength: float) -> None:
        self._draws, self._preset, self._strength = draws, preset, strength

    def size(self, name: str) -> float:
        """Strength of the effect on this page, 0 where it has none (scaled by ``PageConfig.strength``)."""
        return self.raw(name) * self._strength

    def raw(self, name: str) -> float:
        """The same without the factor, for what is no size: quality, page scale."""
        effect = self._preset.get(name)
        if effect is None or self._strength == 0 or (effect.chance < 1 and not self._draws.chance(name, effect.chance)):
            return 0.0
        return self._draws.uniform(f"{name}_size", effect.low, effect.high)
