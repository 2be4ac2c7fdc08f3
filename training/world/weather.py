"""Light, air and lens: what the same street looks like on different days and through different cameras."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Weather:
    """Attributes:
    name: 'clear', 'hazy', 'overcast', 'dusk'.
    sun_direction: (3,) unit vector from the sun to the ground.
    sun, sky_light: (3,) RGB strength of the sun and of the light from everywhere.
    shadows: whether the sun casts them.
    fog: (start, end) in m, None for clear air.
    horizon, zenith, clouds: (3,) RGB of the sky; fog has the horizon's colour.
    cloudiness: 0..1.
    wetness: 0..1, how far the ground is darkened.
    """

    name: str
    sun_direction: np.ndarray
    sun: np.ndarray
    sky_light: np.ndarray
    shadows: bool
    fog: tuple[float, float] | None
    horizon: np.ndarray
    zenith: np.ndarray
    clouds: np.ndarray
    cloudiness: float
    wetness: float


def make_weather(rng: np.random.Generator) -> Weather:
    """One of four kinds, each with its spread."""
    name = str(rng.choice(["clear", "hazy", "overcast", "dusk"], p=[0.45, 0.2, 0.23, 0.12]))
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(20, 75))
    if name == "dusk":
        elevation = np.radians(rng.uniform(10, 22))
    direction = -np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    warmth = rng.normal(0, 0.05)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    sun, sky_light = {
        "clear": (rng.uniform(0.55, 0.9), rng.uniform(0.25, 0.42)),
        "hazy": (rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.5)),
        "overcast": (rng.uniform(0.12, 0.3), rng.uniform(0.45, 0.65)),
        "dusk": (rng.uniform(0.15, 0.35), rng.uniform(0.14, 0.28)),
    }[name]
    fog = None
    if name == "hazy":
        fog = (rng.uniform(5, 30), rng.uniform(110, 300))
    elif rng.random() < 0.15:
        fog = (rng.uniform(5, 20), rng.uniform(70, 130))
    grey = rng.uniform(0.55, 0.9)
    if name in ("overcast", "hazy"):
        zenith, horizon = np.full(3, grey * 0.9) * tint, np.full(3, grey)
    elif name == "dusk":
        horizon = np.array([rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.5), rng.uniform(0.25, 0.5)])
        zenith = horizon * rng.uniform(0.25, 0.6)
    else:
        zenith = np.array([rng.uniform(0.15, 0.45), rng.uniform(0.35, 0.6), rng.uniform(0.6, 0.95)])
        horizon = 0.5 * zenith + 0.5 * rng.uniform(0.75, 0.95)
    return Weather(
        name=name,
        sun_direction=direction,
        sun=sun * tint * ((1.15, 0.95, 0.75) if name == "dusk" else (1, 1, 1)),
        sky_light=sky_light * (2 - tint),
        shadows=name != "overcast",
        fog=fog,
        horizon=np.clip(horizon, 0, 1),
        zenith=np.clip(zenith, 0, 1),
        clouds=np.clip(np.full(3, rng.uniform(0.6, 1.0)) * (0.6 if name == "dusk" else 1.0), 0, 1),
        cloudiness=float(rng.uniform(0, 0.9)),
        wetness=float(rng.uniform(0.2, 0.6)) if rng.random() < 0.2 else 0.0,
    )


def paint_sky(weather: Weather, rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """The six faces of a sky box below one another, (6 * size, size, 3) uint8 RGB: right, left, up, down, front, back as a
    viewer sees them who looks along -z with y up."""
    u = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(u, -u)
    one = np.ones_like(x)
    directions = np.stack(
        [
            np.stack(face, -1)
            for face in ((one, y, -x), (-one, y, x), (x, one, -y), (x, -one, y), (x, y, one), (-x, y, -one))
        ]
    )
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    up = directions[..., 1]
    share = np.clip(up, 0, 1)[..., None] ** 0.6
    sky = (1 - share) * weather.horizon + share * weather.zenith
    # Waves in random directions add up to something cloud-like without seams between the faces.
    waves = np.zeros(up.shape)
    for frequency in (3.0, 6.0, 11.0, 19.0):
        for _ in range(3):
            waves += np.sin(directions @ (rng.normal(0, frequency, 3)) + rng.uniform(0, 6.3)) / frequency**0.7
    cover = (
        np.clip((waves / 1.2 + 2 * weather.cloudiness - 1) * 1.2, 0, 1)[..., None] * np.clip(up * 4, 0, 1)[..., None]
    )
    sky = (1 - cover) * sky + cover * weather.clouds
    return (np.clip(sky, 0, 1) * 255).round().astype(np.uint8).reshape(6 * size, size, 3)


@dataclass(frozen=True, eq=False)
class Lens:
    """How one camera renders light: gains per channel (3,), gamma, noise (grey levels), blur (pixels, 0 for none), vignetting, and
    whether it is grey-scale."""

    gains: np.ndarray
    gamma: float
    noise: float
    blur: float
    vignetting: float
    grey: bool

    def expose(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB, as rendered, to (H, W, 3) uint8 BGR, as the camera would deliver it."""
        height, width = picture.shape[:2]
        table = 255 * np.clip(np.arange(256)[:, None] / 255 * self.gains, 0, 1) ** self.gamma
        values = np.stack([table[:, c].astype(np.float32)[picture[..., c]] for c in (2, 1, 0)], -1)
        if self.blur:
            values = cv2.GaussianBlur(values, (0, 0), self.blur)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        values *= (1 - self.vignetting * (x * x + y * y) / 2)[..., None]
        # One field of noise for all channels and a finer one for each: cheap, and more like a sensor's than either.
        values += rng.standard_normal((height, width, 1), dtype=np.float32) * self.noise
        if self.grey:
            values = cv2.cvtColor(cv2.cvtColor(values, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        return np.clip(values, 0, 255).round().astype(np.uint8)


def make_lens(rng: np.random.Generator, grey: bool) -> Lens:
    """A camera of one drive; all of a drive share most, see ``vary``."""
    return Lens(
        gains=rng.uniform(0.85, 1.3) * (1 + rng.normal(0, 0.04, 3)),
        gamma=rng.uniform(0.75, 1.15),
        noise=float(rng.choice([1.0, 2.5, 5.0], p=[0.5, 0.35, 0.15])),
        blur=float(rng.choice([0.0, 0.6, 1.0], p=[0.6, 0.3, 0.1])),
        vignetting=rng.uniform(0, 0.25),
        grey=grey,
    )


def vary(lens: Lens, rng: np.random.Generator) -> Lens:
    """Another camera of the same make: slightly different gains."""
    gains = lens.gains * (1 + rng.normal(0, 0.03)) * (1 + rng.normal(0, 0.01, 3))
    return Lens(gains, lens.gamma, lens.noise, lens.blur, lens.vignetting, lens.grey)
