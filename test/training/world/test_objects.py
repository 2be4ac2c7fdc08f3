"""The catalogue of objects: exact sizes, sound meshes, shapes with a heading, colours that tell nothing."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from bevdistill_ros.training.world.objects import CATEGORIES, CYCLES, ObjectModel, make_object
from bevdistill_ros.training.world.palette import ACCENT, Material, NaturalPalette, ShuffledPalette
from bevdistill_ros.training.world.shapes import Mesh, Part, capsule, cylinder, ellipsoid, extent, moved, volume

SEEDS = range(24)
KINDS = [(category, False) for category in CATEGORIES] + [
    (category, rider) for category in CYCLES for rider in (False, True)
]

# Lowest and highest length, width, height (m), and the mean of nuScenes, which the mean of ours comes near to.
SIZES = {
    "vehicle.car": ((3.4, 1.6, 1.3), (6.0, 2.4, 2.5), (4.6, 1.95, 1.73)),
    "vehicle.truck": ((4.5, 1.8, 1.6), (11.0, 3.1, 4.2), (6.9, 2.5, 2.85)),
    "vehicle.bus.rigid": ((7.0, 2.6, 2.7), (14.5, 3.3, 4.3), (11.2, 2.93, 3.5)),
    "vehicle.trailer": ((6.5, 2.4, 2.0), (16.5, 3.3, 4.6), (12.3, 2.9, 3.9)),
    "vehicle.construction": ((3.0, 1.5, 1.8), (13.0, 4.2, 5.5), (6.4, 2.85, 3.2)),
    "human.pedestrian.adult": ((0.25, 0.4, 1.5), (1.4, 1.0, 2.05), (0.73, 0.67, 1.77)),
    "human.pedestrian.child": ((0.15, 0.25, 0.9), (1.1, 0.8, 1.6), (0.55, 0.5, 1.3)),
    "movable_object.trafficcone": ((0.25, 0.25, 0.5), (0.75, 0.75, 1.5), (0.41, 0.41, 1.07)),
    "movable_object.barrier": ((0.2, 1.2, 0.6), (0.9, 4.2, 1.3), (0.5, 2.5, 0.98)),
    "vehicle.motorcycle": ((1.7, 0.5, 1.0), (2.5, 1.0, 2.0), (2.1, 0.77, 1.47)),
    "vehicle.bicycle": ((1.5, 0.35, 0.9), (2.1, 0.9, 2.05), (1.7, 0.6, 1.28)),
}
AT_MOST_PARTS = {"vehicle": 16, "human": 10, "movable_object": 6}


def make(category: str, rider: bool, seed: int) -> ObjectModel:
    return make_object(category, np.random.default_rng(seed), NaturalPalette(np.random.default_rng(seed)), rider)


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, bool], list[ObjectModel]]:
    return {kind: [make(*kind, seed) for seed in SEEDS] for kind in KINDS}


def reach(part: Part, direction: np.ndarray) -> float:
    """How far a piece goes in a direction: the support function of its solid."""
    local = part.rotation.T @ direction
    if part.shape == "mesh":
        far = max(float(vertex @ local) for vertex in part.vertices)
    elif part.shape == "box":
        far = max(float(local @ (part.size * (sx, sy, sz))) for sx in (-1, 1) for sy in (-1, 1) for sz in (-1, 1))
    elif part.shape == "ellipsoid":
        far = float(np.sqrt(((part.size * local) ** 2).sum()))
    else:
        radius, half = part.size
        far = half * abs(local[2]) + radius * (np.hypot(local[0], local[1]) if part.shape == "cylinder" else 1.0)
    return far + float(part.position @ direction)


@pytest.mark.parametrize("kind", KINDS)
def test_size_is_the_exact_extent_and_the_origin_is_below_its_middle(kind, objects):
    for model in objects[kind]:
        length, width, height = model.size
        for direction, expected in (
            ((1, 0, 0), length / 2), ((-1, 0, 0), length / 2), ((0, 1, 0), width / 2), ((0, -1, 0), width / 2),
            ((0, 0, 1), height), ((0, 0, -1), 0.0),
        ):  # fmt: skip
            assert max(reach(part, np.array(direction, float)) for part in model.parts) == pytest.approx(
                expected, abs=1e-9
            )


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_plausible(kind, objects):
    low, high, mean = SIZES[kind[0]]
    sizes = np.array([model.size for model in objects[kind]])
    assert (sizes > low).all() and (sizes < high).all()
    assert (sizes.std(axis=0) > 0.01).all(), "all of one size"
    if kind[0] not in CYCLES:  # nuScenes' mean is of those with and those without riders
        np.testing.assert_allclose(sizes.mean(axis=0), mean, rtol=0.2)


def test_extents_of_tilted_primitives_bound_their_surfaces_tightly():
    rng = np.random.default_rng(3)
    around, along = (
        v.ravel() for v in np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(-np.pi / 2, np.pi / 2, 361))
    )
    ball = np.stack([np.cos(around) * np.cos(along), np.sin(around) * np.cos(along), np.sin(along)], -1)
    plain = Material(np.zeros(3), 0.5, 0.5)
    start, end, radius = rng.normal(size=3), rng.normal(size=3), 0.3
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axis = (end - start) / np.linalg.norm(end - start)
    across = np.linalg.svd(axis[None])[2][1:]
    circle = radius * np.stack([np.cos(around), np.sin(around)], -1) @ across
    (egg,) = moved([ellipsoid((0, 0, 0), (0.2, 0.5, 0.9), plain)], turn, (1, 2, 3))
    for part, surface in (
        (cylinder(start, end, radius, plain), np.concatenate([circle + start, circle + end])),
        (capsule(start, end, radius, plain), np.concatenate([radius * ball + start, radius * ball + end])),
        (egg, ball * (0.2, 0.5, 0.9) @ turn.T + (1, 2, 3)),
    ):
        low, high = extent(part)
        np.testing.assert_allclose(low, surface.min(axis=0), atol=1e-4)
        np.testing.assert_allclose(high, surface.max(axis=0), atol=1e-4)


def landmarks(model: ObjectModel) -> np.ndarray:
    """Points of an object that stand for its shape: vertices, and corners of the boxes around its primitives."""
    points = []
    for part in model.parts:
        if part.shape == "mesh":
            points.append(part.vertices @ part.rotation.T + part.position)
        else:
            points.append(np.stack(np.meshgrid(*np.stack(extent(part), axis=1)), -1).reshape(-1, 3))
    return np.concatenate(points)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind[0].startswith("movable_object")])
def test_front_and_back_differ(kind, objects):
    for model in objects[kind]:
        points = landmarks(model)
        away, _ = cKDTree(points).query(points * [-1, 1, 1])
        assert np.mean(away) > 0.015 * model.size[0]


@pytest.mark.parametrize("kind", KINDS)
def test_meshes_are_closed_and_look_outwards(kind, objects):
    for model in objects[kind][:8]:
        for part in model.parts:
            if part.shape != "mesh":
                assert part.vertices is None and part.faces is None
                continue
            count = len(part.vertices)
            assert len(part.faces) <= 128
            edges = np.concatenate([part.faces[:, [0, 1]], part.faces[:, [1, 2]], part.faces[:, [2, 0]]])
            directed, times = np.unique(edges, axis=0, return_counts=True)
            assert (times == 1).all(), "two faces run along an edge in the same direction"
            np.testing.assert_array_equal(directed, np.unique(edges[:, ::-1], axis=0))
            a, b, c = part.vertices[part.faces].transpose(1, 0, 2)
            assert (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-8).all(), "a face without area"
            pieces, of_vertex = connected_components(coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count)))
            for piece in range(pieces):
                faces = part.faces[of_vertex[part.faces[:, 0]] == piece]
                assert volume(Mesh(part.vertices, faces)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_few_parts_with_sound_properties(kind, objects):
    for model in objects[kind]:
        assert len(model.parts) <= AT_MOST_PARTS[kind[0].split(".")[0]]
        assert model.category == kind[0] and model.with_rider == kind[1]
        for part in model.parts:
            assert part.colour.shape == (3,) and (part.colour >= 0).all() and (part.colour <= 1).all()
            assert 0 <= part.reflectivity <= 1 and 0 <= part.shininess <= 1
            np.testing.assert_allclose(part.rotation @ part.rotation.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(part.rotation) > 0
            assert (part.size > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_shape_under_any_palette(kind):
    for seed in range(6):
        natural = make(*kind, seed)
        for palette in (
            NaturalPalette(np.random.default_rng(seed + 100)),
            ShuffledPalette(np.random.default_rng(seed)),
        ):
            other = make_object(kind[0], np.random.default_rng(seed), palette, kind[1])
            np.testing.assert_array_equal(natural.size, other.size)
            assert [p.shape for p in natural.parts] == [p.shape for p in other.parts]
            for a, b in zip(natural.parts, other.parts):
                for field in ("size", "position", "rotation", "vertices", "faces"):
                    np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
            assert any((a.colour != b.colour).any() for a, b in zip(natural.parts, other.parts))


@pytest.mark.parametrize("category", CYCLES)
def test_a_rider_sits_on_the_same_machine(category, objects):
    for parked, ridden in zip(objects[category, False], objects[category, True]):
        assert ridden.size[2] > parked.size[2] + 0.3
        assert len(ridden.parts) > len(parked.parts)
        shift = ridden.parts[0].position - parked.parts[0].position
        for a, b in zip(parked.parts, ridden.parts):
            np.testing.assert_allclose(a.position + shift, b.position, atol=1e-12)
            np.testing.assert_array_equal(a.vertices, b.vertices)


def test_only_cycles_have_riders():
    with pytest.raises(ValueError, match=r"vehicle\.car has no rider"):
        make("vehicle.car", True, 0)


# ------------------------------------------------------------------ colour


class _Marked(NaturalPalette):
    """Natural tones are NaN; whatever else an object shows is paint or cloth, and kept in ``drawn``."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.drawn: set[bytes] = set()

    def paint(self) -> Material:
        material = super().paint()
        self.drawn.add(material.colour.tobytes())
        return material

    def cloth(self) -> Material:
        material = super().cloth()
        self.drawn.add(material.colour.tobytes())
        return material

    def _natural(self, hue, saturation, value, reflectivity, shininess) -> Material:
        return Material(np.full(3, np.nan), reflectivity, shininess)


def bins(colours: np.ndarray) -> np.ndarray:
    """Histogram (9,) that sums to one: grey, dark to light, then hues from red on."""
    counts = np.zeros(9)
    for colour in colours:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        counts[int(min(value, 0.99) * 3) if saturation < 0.1 else 3 + int(hue * 6)] += 1
    return counts / counts.sum()


def test_paint_tells_nothing_of_the_class():
    by_category = {}
    for number, category in enumerate([*CATEGORIES, *CYCLES]):
        first = []
        for seed in range(80):
            palette = _Marked(np.random.default_rng((number, seed)))
            model = make_object(category, np.random.default_rng(seed), palette)
            painted = [part.colour for part in model.parts if np.isfinite(part.colour).all()]
            assert painted, "an object without any paint"
            assert {colour.tobytes() for colour in painted} <= palette.drawn, "a colour that no palette gave"
            first.append(painted[0])
        by_category[category] = bins(np.array(first))
    everyone = np.mean(list(by_category.values()), axis=0)
    for category, histogram in by_category.items():
        # Of 80 draws in 9 bins, half the summed difference is 0.13 on average by chance; a class of its own colour has 0.6 or more.
        assert 0.5 * np.abs(histogram - everyone).sum() < 0.25, category


def test_cloth_is_of_the_colours_of_paint():
    palette = NaturalPalette(np.random.default_rng(0))
    paint, cloth = (bins(np.array([draw().colour for _ in range(1500)])) for draw in (palette.paint, palette.cloth))
    assert 0.5 * np.abs(paint - cloth).sum() < 0.06
    assert paint[:3].sum() == pytest.approx(0.3, abs=0.06)
    assert paint.min() > 0.04, "a colour is missing"


def test_accents_mostly_repeat_the_base():
    palette = NaturalPalette(np.random.default_rng(0))
    base = palette.paint()
    share = np.mean([palette.accent(base) is not base for _ in range(2000)])
    assert share == pytest.approx(ACCENT, abs=0.04)


def test_a_fifth_of_the_cars_has_an_unusual_natural_tone():
    unusual = 0
    for seed in range(300):
        tyre, glass, front, back = (
            getattr(NaturalPalette(np.random.default_rng((seed, k))), name)().colour
            for k, name in enumerate(("tyre", "glass", "lamp_front", "lamp_back"))
        )
        usual = (
            tyre.max() <= 0.2 and glass.max() <= 0.4 and front.min() > 0.6 and back[0] >= 3.9 * max(back[1:].min(), 0)
        )
        unusual += not usual
    assert 0.08 < unusual / 300 < 0.3


@pytest.mark.parametrize(
    "name", ["paint", "cloth", "hair", "skin", "tyre", "glass", "trim", "metal", "lamp_front", "lamp_back", "plate"]
)
def test_shuffled_draws_are_uniform(name):
    palette = ShuffledPalette(np.random.default_rng(1))
    colours = np.array([getattr(palette, name)().colour for _ in range(1000)])
    np.testing.assert_allclose(
        np.quantile(colours, (0.1, 0.5, 0.9), axis=0), [[0.1] * 3, [0.5] * 3, [0.9] * 3], atol=0.06
    )


def test_shuffled_accents_are_draws_of_their_own():
    palette = ShuffledPalette(np.random.default_rng(1))
    base = palette.paint()
    colours = np.array([palette.accent(base).colour for _ in range(1000)])
    np.testing.assert_allclose(
        np.quantile(colours, (0.1, 0.5, 0.9), axis=0), [[0.1] * 3, [0.5] * 3, [0.9] * 3], atol=0.06
    )
