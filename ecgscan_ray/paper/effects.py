"""Effects on a page, as data: each with its probability and range of sizes, and presets of them.

``damage.py`` has damage to the sheet, ``warp.py`` its pose, ``camera.py`` photographing and scanning.
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
    # pose of the page
    "rotation": Effect(1.0, 1.0, 2.0),  # standard deviation and limit / 3, degrees
    "turn": Effect(0.0, 1.0, 1.0),  # one to three quarter turns; the size has no meaning
    "perspective": Effect(1.0, 0.0, 0.02),  # fraction of the page's width
    "page_scale": Effect(1.0, 0.92, 1.02),  # 1 = the page fills the image
    "shift": Effect(1.0, 0.0, 0.02),  # fraction of the image's side
    "crop": Effect(0.2, 0.02, 0.15),  # fraction by which the page is larger than the image
    "curl": Effect(0.3, 0.002, 0.012),  # fraction of the page's width
    # damage to the sheet
    "fold": Effect(0.2, 0.03, 0.2),  # darkening in the fold
    "crease": Effect(0.2, 0.1, 0.6),  # the same, along short creases
    "wrinkle": Effect(0.2, 0.05, 0.35),  # darkening of the darkest facet
    "stain": Effect(0.05, 0.05, 0.25),  # darkening
    "ring": Effect(0.05, 0.1, 0.35),  # the same, of a coffee cup's ring
    "writing": Effect(0.2, 0.6, 0.95),  # opacity
    "stamp": Effect(0.1, 0.35, 0.8),  # opacity
    "thermal": Effect(0.1, 0.15, 0.55),  # largest fraction of ink lost
    "fade": Effect(0.2, 0.05, 0.35),  # fraction of ink and grid lost everywhere
    "pale_ink": Effect(0.3, 0.1, 0.45),  # fraction by which ink, but not the grid, is moved towards white
    "rim": Effect(0.3, 3.0, 8.0),  # width without grid at the sheet's edge, mm
    "print": Effect(0.3, 0.3, 1.1),  # a grid in colours of this page alone; darkness of its 5 mm lines
    "panels": Effect(0.2, 0.05, 0.25),  # contrast of a folded sheet's shading
    "crumple": Effect(0.1, 0.05, 0.25),  # the same, of a crumpled sheet
    # copiers, scanners, faxes
    "threshold": Effect(0.05, 135.0, 195.0),  # grey value between black and white
    "dither": Effect(0.05, 0.08, 0.25),  # pitch of the dots, mm
    "grade": Effect(0.2, 0.0, 1.0),  # above 0.5 the page turns grey
    "streak": Effect(0.1, 3.0, 14.0),  # grey levels
    "edge": Effect(0.1, 0.1, 0.5),  # darkening at one side of the page
    # light and colour
    "shading": Effect(0.8, 0.04, 0.3),  # darkening at the darkest corner
    "shadow": Effect(0.3, 0.05, 0.4),  # darkening inside the shadow
    "glare": Effect(0.08, 0.1, 0.5),  # brightening
    "cast": Effect(0.7, 0.0, 0.06),  # relative difference of red and blue
    "gamma": Effect(0.8, 0.0, 0.3),  # log of the exponent
    "exposure": Effect(0.3, 0.0, 0.3),  # darkening of the whole picture
    "white_balance": Effect(0.3, 0.0, 0.08),  # relative shift towards blue or yellow
    "two_lights": Effect(0.3, 0.02, 0.15),  # relative shift of shaded parts towards blue or yellow
    # the camera; lengths in px at 1.4 px/mm, growing with the image
    "moire": Effect(0.1, 0.03, 0.12),  # contrast
    "blur": Effect(0.8, 0.25, 0.7),  # sigma, px
    "defocus": Effect(0.05, 0.5, 1.4),  # radius, px
    "motion": Effect(0.05, 1.0, 3.0),  # length, px
    "downscale": Effect(0.05, 0.1, 0.45),  # fraction by which each side was shrunk in between
    "noise": Effect(0.8, 1.0, 5.0),  # grey levels
    "soft_colour": Effect(0.3, 0.6, 1.6),  # px over which chroma is blurred
    "grain": Effect(0.3, 1.0, 4.0),  # grey levels of correlated noise
    "sharpen": Effect(0.2, 0.2, 0.8),  # fraction of the finest detail that is added again
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
"""Quarter turns are in none of them; ask for them with ``page.effect_probabilities: {turn: 0.25}``."""


def enabled_effects(page: PageConfig) -> dict[str, Effect]:
    """The effects that pages of these settings can have: the preset's, with the settings' probabilities and ranges.

    Raises:
        ConfigError: An effect is unknown, or has a range but no probability.
    """
    effects = dict(PRESETS[page.effects])
    for name in (*page.effect_probabilities, *page.effect_ranges):
        if name not in EFFECTS:
            where = "page.effect_probabilities" if name in page.effect_probabilities else "page.effect_ranges"
            raise ConfigError(f"no effect named '{name}'", where=where, fix=near_miss(name, EFFECTS))
    for name, chance in page.effect_probabilities.items():
        effects[name] = replace(effects.get(name, EFFECTS[name]), chance=chance)
    for name, (low, high) in page.effect_ranges.items():
        if name not in effects:  # a range alone enables nothing
            raise ConfigError(
                f"'{name}' is not among the effects of '{page.effects}'",
                where="page.effect_ranges",
                fix=f"Give page.effect_probabilities.{name} too.",
            )
        effects[name] = replace(effects[name], low=low, high=high)
    return {name: effect for name, effect in effects.items() if effect.chance > 0} if page.strength > 0 else {}


class PageEffects:
    """Which effects a page has, and how strong: a view of its numbers and the enabled effects."""

    __slots__ = ("_draws", "_enabled", "_strength")

    def __init__(self, draws: Draws, enabled: dict[str, Effect], strength: float) -> None:
        self._draws, self._enabled, self._strength = draws, enabled, strength

    def size(self, name: str) -> float:
        """Strength of the effect on this page, 0 where it has none (scaled by ``PageConfig.strength``)."""
        return self.raw(name) * self._strength

    def raw(self, name: str) -> float:
        """The same without the factor, for values that are no strengths: quality, page scale."""
        effect = self._enabled.get(name)
        if effect is None or self._strength == 0 or (effect.chance < 1 and not self._draws.chance(name, effect.chance)):
            return 0.0
        return self._draws.uniform(f"{name}_size", effect.low, effect.high)
