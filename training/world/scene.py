"""A quarter and its traffic as a MuJoCo model, set to any moment of the drive.

Nothing here is simulated by forces: objects are mocap bodies that are put where their motions have them, and MuJoCo renders and
casts rays.
"""

from __future__ import annotations

import mujoco
import numpy as np

from bevdistill_ros.geometry import Camera, make_transform, quaternion_from_rotation, rotation_z
from bevdistill_ros.training.world.ground import Ground
from bevdistill_ros.training.world.layout import Layout
from bevdistill_ros.training.world.rig import Rig
from bevdistill_ros.training.world.scenery import Scenery
from bevdistill_ros.training.world.shapes import Part
from bevdistill_ros.training.world.traffic import Still, Traffic
from bevdistill_ros.training.world.weather import Weather

SIGHT = 90.0
"""Metres from the ego beyond which objects are neither rendered nor hit."""

_VISIBLE, _HIDDEN = 0, 5  # MuJoCo's geom groups: the renderer and the rays see the first three only
_GEOM = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
}
_FINISHES = 6
_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)


class Scene:
    """Attributes:
    model, data: MuJoCo's.
    actor_of_geom: (G,) index of the actor that a geom belongs to, -1 for none.
    reflectivity: (G,) of each geom, 0..1.
    """

    def __init__(
        self,
        layout: Layout,
        ground: Ground,
        scenery: Scenery,
        traffic: Traffic,
        weather: Weather,
        sky: np.ndarray,
        rig: Rig,
    ) -> None:
        self.traffic = traffic
        spec = mujoco.MjSpec()
        spec.compiler.degree = False
        _settings(spec, rig, weather)
        reflectivity = {"ground": 0.25 * (1 - 0.5 * weather.wetness)}
        _ground(spec, layout, ground, weather, sky)
        _walls(spec, scenery, reflectivity)
        _finishes(spec)
        for index, item in enumerate(scenery.furniture):
            body = spec.worldbody.add_body(
                pos=[*item.position, 0.0], quat=_wxyz(rotation_z(item.yaw)), name=f"furniture{index}"
            )
            _add_parts(spec, body, item.parts, f"furniture{index}", reflectivity)
        for index, actor in enumerate(traffic.actors):
            body = spec.worldbody.add_body(mocap=True, name=f"actor{index}")
            _add_parts(spec, body, actor.model.parts, f"actor{index}", reflectivity)
        _ego(spec, rig, weather)

        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        names = [self.model.geom(i).name for i in range(self.model.ngeom)]
        self.reflectivity = np.array([reflectivity[name] for name in names])
        bodies = [self.model.body(f"actor{index}") for index in range(len(traffic.actors))]
        actor_of_body = np.full(self.model.nbody, -1)
        actor_of_body[[body.id for body in bodies]] = np.arange(len(bodies))
        self.actor_of_geom = actor_of_body[self.model.geom_bodyid]
        self._mocap = np.array([self.model.body_mocapid[body.id] for body in bodies], int)
        self._ego_mocap = int(self.model.body_mocapid[self.model.body("ego").id])
        self._actors_at = np.zeros((len(bodies), 2))
        self._moving = [index for index, actor in enumerate(traffic.actors) if not isinstance(actor.motion, Still)]
        for index in range(len(bodies)):
            self._place(index, 0.0)
        self._furniture = self.model.geom_bodyid[:, None] == np.array(
            [self.model.body(f"furniture{i}").id for i in range(len(scenery.furniture))], int
        )
        self._furniture_at = np.array([item.position for item in scenery.furniture]).reshape(-1, 2)

    def set_time(self, t: float, global_T_ego: np.ndarray) -> None:
        """Put the ego and every object where they are at ``t`` seconds."""
        ego = global_T_ego[:2, 3]
        self.data.mocap_pos[self._ego_mocap] = global_T_ego[:3, 3]
        self.data.mocap_quat[self._ego_mocap] = _wxyz(global_T_ego[:3, :3])
        for index in self._moving:
            self._place(index, t)
        near = np.hypot(*(self._actors_at - ego).T) < SIGHT
        groups = self.model.geom_group
        mine = self.actor_of_geom >= 0
        groups[mine] = np.where(near[self.actor_of_geom[mine]], _VISIBLE, _HIDDEN)
        far = np.linalg.norm(self._furniture_at - ego, axis=1) >= SIGHT
        groups[self._furniture.any(1)] = _VISIBLE
        groups[self._furniture[:, far].any(1)] = _HIDDEN
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _place(self, index: int, t: float) -> None:
        position, yaw = self.traffic.actors[index].motion.at(t)
        mocap = self._mocap[index]
        self._actors_at[index] = position
        self.data.mocap_pos[mocap] = (*position, 0.0)
        self.data.mocap_quat[mocap] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))

    def cast(self, origin: np.ndarray, directions: np.ndarray, reach: float) -> tuple[np.ndarray, ...]:
        """First hits of rays from one point.

        Args:
            origin: (3,) global frame.
            directions: (R, 3) unit vectors.
            reach: m.

        Returns:
            distance (R,) in m, infinite where nothing is hit; geom (R,), -1 there; normal (R, 3) of the surface.
        """
        count = len(directions)
        groups = self.model.geom_group
        shown = groups.copy()
        groups[~self._in_cone(origin, directions)] = _HIDDEN  # MuJoCo tries every geom for every ray
        geom, distance = np.full(count, -1, np.int32), np.full(count, -1.0)
        normal = np.zeros(3 * count)
        mujoco.mj_multiRay(
            self.model,
            self.data,
            np.ascontiguousarray(origin, np.float64),
            np.ascontiguousarray(directions, np.float64).reshape(-1),
            _GROUPS,
            True,
            -1,
            geom,
            distance,
            normal,
            count,
            reach,
        )
        groups[:] = shown
        missed = (geom < 0) | (distance > reach)
        return np.where(missed, np.inf, distance), np.where(missed, -1, geom), normal.reshape(-1, 3)

    def _in_cone(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(G,) bool: geoms whose bounding spheres reach into the narrowest cone around the rays; planes always do."""
        axis = directions.mean(0)
        if np.linalg.norm(axis) < 0.1:  # rays all around
            return np.ones(self.model.ngeom, bool)
        axis = axis / np.linalg.norm(axis)
        opening = np.arccos(np.clip((directions @ axis).min(), -1, 1))
        delta = self.data.geom_xpos - origin
        distance = np.maximum(np.linalg.norm(delta, axis=1), 1e-6)
        off_axis = np.arccos(np.clip(delta @ axis / distance, -1, 1))
        radius = self.model.geom_rbound
        reach = np.arcsin(np.clip(radius / distance, 0, 1))
        return (radius == 0) | (distance <= radius) | (off_axis <= opening + reach)


class CameraRenderer:
    """Renders the rig's cameras of a scene. Holds an OpenGL context: ``close`` it."""

    def __init__(self, scene: Scene, width: int, height: int, weather: Weather) -> None:
        self._scene, self._weather = scene, weather
        self._renderer = mujoco.Renderer(scene.model, height, width, max_geom=scene.model.ngeom + 100)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = _GROUPS

    def render(self, channel: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB, of the moment that the scene is set to."""
        self._renderer.update_scene(self._scene.data, channel, self._option)
        flags = self._renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._weather.shadows
        flags[mujoco.mjtRndFlag.mjRND_FOG] = self._weather.fog is not None
        flags[mujoco.mjtRndFlag.mjRND_HAZE] = False
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        return self._renderer.render()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _wxyz(rotation: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion_from_rotation(rotation)
    return np.array([w, x, y, z])


def _settings(spec: mujoco.MjSpec, rig: Rig, weather: Weather) -> None:
    """Extent 1, so that MuJoCo's relative lengths are metres. Few facets: software renderers are slow on polygons."""
    camera = next(iter(rig.cameras.values()))[0]
    spec.stat.extent, spec.stat.center = 1.0, [0, 0, 0]
    visual = spec.visual
    visual.global_.offwidth, visual.global_.offheight = camera.width, camera.height
    visual.map.znear, visual.map.zfar, visual.map.shadowclip = 0.2, 400.0, 55.0
    if weather.fog is not None:
        visual.map.fogstart, visual.map.fogend = weather.fog
    visual.rgba.fog = [*weather.horizon, 1]
    visual.quality.shadowsize, visual.quality.offsamples = 2048, 4
    visual.quality.numslices, visual.quality.numstacks, visual.quality.numquads = 14, 8, 1
    visual.headlight.ambient, visual.headlight.diffuse = weather.sky_light, 0.25 * weather.sky_light
    visual.headlight.specular = [0, 0, 0]


def _ground(spec: mujoco.MjSpec, layout: Layout, ground: Ground, weather: Weather, sky: np.ndarray) -> None:
    picture = (ground.picture * (1 - 0.45 * weather.wetness)).astype(np.uint8)
    _texture(spec, "ground", picture)
    _texture(spec, "sky", sky, mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    width, height = layout.size
    # Of a plane wider than the map the picture would repeat; the plain ground beyond lies a little lower.
    spec.worldbody.add_geom(
        name="ground",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=[width / 2, height / 2, 0],
        size=[width / 2, height / 2, 1],
        material="ground",
        contype=0,
        conaffinity=0,
    )


def _texture(
    spec: mujoco.MjSpec,
    name: str,
    picture: np.ndarray,
    kind: mujoco.mjtTexture = mujoco.mjtTexture.mjTEXTURE_2D,
) -> None:
    """A texture and, but for the sky, a material of the same name, row 0 of the picture at the top."""
    texture = spec.add_texture(
        name=name, type=kind, width=picture.shape[1], height=picture.shape[0], nchannel=3, builtin=0
    )
    flat = kind == mujoco.mjtTexture.mjTEXTURE_2D
    texture.data = np.ascontiguousarray(picture[::-1] if flat else picture).tobytes()
    if flat:
        material = spec.add_material(name=name, shininess=0, specular=0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _walls(spec: mujoco.MjSpec, scenery: Scenery, reflectivity: dict[str, float]) -> None:
    for index, tile in enumerate(scenery.tiles):
        _texture(spec, f"tile{index}", tile)
    for index, wall in enumerate(scenery.walls):
        name = f"wall{index}"
        _mesh(spec, name, wall.vertices, wall.faces, wall.texcoords)
        spec.worldbody.add_body(name=name).add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            material=f"tile{wall.picture}",
            contype=0,
            conaffinity=0,
        )
        reflectivity[name] = wall.reflectivity


def _mesh(
    spec: mujoco.MjSpec, name: str, vertices: np.ndarray, faces: np.ndarray, texcoords: np.ndarray | None = None
) -> None:
    mesh = spec.add_mesh(name=name, uservert=vertices.astype(np.float32).ravel().tolist())
    mesh.userface = faces.astype(np.int32).ravel().tolist()
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # thin shapes have next to no volume
    if texcoords is not None:
        mesh.usertexcoord = texcoords.astype(np.float32).ravel().tolist()


def _finishes(spec: mujoco.MjSpec) -> None:
    """Materials from matt to glossy. MuJoCo allows for a thousand of them, so colours are the geoms' own."""
    for index in range(_FINISHES):
        gloss = index / (_FINISHES - 1)
        spec.add_material(name=f"finish{index}", shininess=0.3 + 0.5 * gloss, specular=0.7 * gloss)


def _add_parts(
    spec: mujoco.MjSpec, body: mujoco.MjsBody, parts: tuple[Part, ...], name: str, reflectivity: dict[str, float]
) -> None:
    for index, part in enumerate(parts):
        label = f"{name}.{index}"
        geom = body.add_geom(
            name=label,
            pos=part.position,
            quat=_wxyz(part.rotation),
            material=f"finish{round(part.shininess * (_FINISHES - 1))}",
            rgba=[*part.colour, 1.0],
            contype=0,
            conaffinity=0,
        )
        if part.shape == "mesh":
            _mesh(spec, label, part.vertices, part.faces)
            geom.type, geom.meshname = mujoco.mjtGeom.mjGEOM_MESH, label
        else:
            geom.type = _GEOM[part.shape]
            geom.size[: len(part.size)] = part.size
        reflectivity[label] = part.reflectivity


def _ego(spec: mujoco.MjSpec, rig: Rig, weather: Weather) -> None:
    """The ego carries the cameras and, at a fixed direction, the sun: shadows are drawn around it."""
    ego = spec.worldbody.add_body(name="ego", mocap=True)
    sun = ego.add_light(
        name="sun",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK,
        pos=-60 * weather.sun_direction,
        dir=weather.sun_direction,
        castshadow=weather.shadows,
    )
    sun.diffuse, sun.specular, sun.ambient = weather.sun, 0.5 * weather.sun, [0, 0, 0]
    for channel, (camera, ego_T_cam) in rig.cameras.items():
        _camera(ego, channel, camera, ego_T_cam)


def _camera(body: mujoco.MjsBody, name: str, camera: Camera, ego_T_cam: np.ndarray) -> None:
    """MuJoCo's cameras look along -z with y up; its principal point counts from the image's middle."""
    turned = ego_T_cam @ make_transform(np.diag([1.0, -1.0, -1.0]))
    mj = body.add_camera(name=name, pos=turned[:3, 3], quat=_wxyz(turned[:3, :3]))
    mj.resolution = [camera.width, camera.height]
    mj.sensor_size = [camera.width * 1e-5, camera.height * 1e-5]
    mj.focal_pixel = [camera.K[0, 0], camera.K[1, 1]]
    # Our pixel centres are whole numbers, so the image's middle is at (width - 1) / 2.
    mj.principal_pixel = [(camera.width - 1) / 2 - camera.K[0, 2], (camera.height - 1) / 2 - camera.K[1, 2]]
