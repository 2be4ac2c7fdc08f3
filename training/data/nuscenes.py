"""Keyframes of any dataset in the nuScenes schema, through nuscenes-devkit: cameras, LiDAR points and boxes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

from bevdistill_ros.config import ImageModelConfig, ModelConfig, PointsConfig, TeacherConfig
from bevdistill_ros.errors import UsageError, UserError
from bevdistill_ros.geometry import (
    Boxes,
    Camera,
    ego_ref_T_cam,
    invert,
    make_transform,
    reference_time,
    rotation_z,
    yaw_of,
)
from bevdistill_ros.models.pillars import POINT
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.data.doubtful import doubtful_boxes, read_doubtful
from bevdistill_ros.training.data.inside import inside
from bevdistill_ros.training.data.lidar import LidarReader
from bevdistill_ros.training.data.records import ego_pose, mounting, rotation_of
from bevdistill_ros.training_rig import RigCamera


@dataclass(frozen=True, eq=False)
class Sample:
    """One keyframe as networks see it; each network is given the attributes that its ``inputs`` name.

    Attributes:
        token: the sample's token.
        images: (N, H, W, 3) uint8 BGR, preprocessed; (N, 0, 0, 3) where pixels were not asked for.
        K: (N, 3, 3) of those images; of the picture files where pixels are never asked for.
        ego_T_cam: (N, 4, 4), base frame at ``t_ref``.
        mask: (N,) bool, cameras present.
        boxes: ground truth in the base frame at ``t_ref``.
        global_T_ego: (4, 4) pose of the base frame at ``t_ref``.
        t_ref: reference time, ns.
        timestamp: the annotations' own time, ns.
        points: (n, POINT) float32 of the LiDAR, base frame at ``t_ref``, see ``lidar.py``; (0, POINT) where not asked for.
        doubtful: boxes that may be there or not, as ``boxes`` but for their scores, see ``doubtful.py``.
    """

    token: str
    images: np.ndarray
    K: np.ndarray
    ego_T_cam: np.ndarray
    mask: np.ndarray
    boxes: Boxes
    global_T_ego: np.ndarray
    t_ref: int
    timestamp: int
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, POINT), np.float32))
    doubtful: Boxes = field(default_factory=lambda: Boxes.empty(()))


class PreparedImages(Protocol):
    """Images that are preprocessed already, by index of the sample."""

    images: np.ndarray
    """(samples, N, H, W, 3) uint8 BGR."""

    K: np.ndarray
    """(samples, N, 3, 3) of those images."""


def open_nuscenes(root: str | Path, version: str | None = None) -> NuScenes:
    """The devkit's tables, with a clear error where there are none.

    Args:
        root: the dataset's folder.
        version: the folder of the tables in it; None: the only one.

    Raises:
        UserError: there is no such folder, it holds no such version, or several where none is named.
        UsageError: no finished version has such a name.
    """
    version = find_version(root, version)
    try:
        return NuScenes(version, str(root), verbose=False)
    except (AssertionError, KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{Path(root) / version}: the tables cannot be read ({type(error).__name__}: {error})"
        ) from None


def find_version(root: str | Path, version: str | None = None) -> str:
    """The name of the folder of tables; arguments and errors as of ``open_nuscenes``."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder")
    # What is hidden is not finished: `world` and `label` make their tables there.
    found = sorted(p.parent.name for p in root.glob("*/sample.json") if not p.parent.name.startswith("."))
    if not found and (root / "sample.json").is_file():
        raise UserError(
            f"{root}: is a version's own folder; name the dataset's, which holds it: {root.absolute().parent}"
        )
    if version is None:
        if len(found) != 1:
            several = f"several versions, {', '.join(found)}: name one with --version"
            raise UserError(f"{root}: has {several if found else 'no nuScenes version (a folder with sample.json)'}")
        version = found[0]
    if version.startswith("."):
        raise UsageError(f"--version {version}: begins with a dot, as versions do while they are written; name another")
    if version not in found:
        hint = f"; it has {', '.join(found)}" if found else ", nor any other nuScenes version"
        raise UserError(f"{root}: has no {version}/sample.json{hint}")
    return version


def choose_samples(nusc: NuScenes, split: str | None = None, scenes: Sequence[str] | None = None) -> list[str]:
    """Sample tokens in time order of a split (see ``scenes_of_split``), of named scenes, or (neither given) of everything.

    Raises:
        UserError: a name is unknown, or nothing is chosen.
    """
    known = {scene["name"]: scene for scene in nusc.scene}
    if split is not None:
        chosen = [name for name in scenes_of_split(nusc, split) if name in known]
        if not chosen:
            raise UserError(
                f"{nusc.dataroot}: has no scene of split {split}; it has {_some(known)}: name them with --scenes"
            )
    elif scenes:
        chosen = list(scenes)
        for name in chosen:
            if name not in known:
                raise UserError(f"{nusc.dataroot}: has no scene '{name}'; it has {_some(known)}")
    else:
        chosen = list(known)
    tokens = []
    for name in chosen:
        token = known[name]["first_sample_token"]
        while token:
            tokens.append(token)
            token = nusc.get("sample", token)["next"]
    if not tokens:
        raise UserError(f"{nusc.dataroot}: the chosen scenes hold no samples")
    return tokens


def scene_of(nusc: NuScenes, token: str) -> str:
    """Name of the scene of a sample."""
    return nusc.get("scene", nusc.get("sample", token)["scene_token"])["name"]


def scenes_of_split(nusc: NuScenes, split: str) -> list[str]:
    """Scene names of an official split, or of one of the dataset's own in VERSION/splits.json, {"name": [scene names]}, the file of
    nuscenes-devkit's custom splits. The dataset need not hold all of them.

    Raises:
        UserError: there is no such split, or splits.json is not as it should be.
    """
    official = create_splits_scenes()
    if split in official:
        return official[split]
    path = Path(nusc.table_root) / "splits.json"
    own: dict[str, list[str]] = {}
    if path.is_file():
        try:
            own = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())})") from None
        if not isinstance(own, dict) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in own.values()
        ):
            raise UserError(f"{path}: must be an object of lists of scene names by the split's name")
    if split not in own:
        others = f"those of {path}, {', '.join(sorted(own))}" if own else f"the dataset has none of its own in {path}"
        raise UserError(f"--split {split}: not one of nuScenes' splits {', '.join(sorted(official))}; {others}")
    return own[split]


def missing_scenes(nusc: NuScenes, split: str | None) -> list[str]:
    """Scenes of a split that this dataset lacks, as parts of nuScenes do; none without a split."""
    known = {scene["name"] for scene in nusc.scene}
    return [] if split is None else [name for name in scenes_of_split(nusc, split) if name not in known]


def note_missing_scenes(nusc: NuScenes, split: str | None) -> None:
    """Say so where scenes of the split are missing."""
    missing = missing_scenes(nusc, split)
    if missing:
        total = len(scenes_of_split(nusc, split))
        print(f"note: {len(missing)} of the {total} scenes of {split} are not in this dataset")


def _some(names: Sequence[str] | dict) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_class_names(class_names: Sequence[str]) -> None:
    """Raise UserError unless every class is one of nuScenes' detection classes."""
    unknown = [name for name in class_names if name not in DETECTION_NAMES]
    if unknown:
        raise UserError(f"class '{unknown[0]}' is not one of nuScenes' detection classes {', '.join(DETECTION_NAMES)}")


def open_samples(
    nusc: NuScenes,
    tokens: Sequence[str],
    model: ModelConfig,
    cameras: Sequence[str] | None = None,
    cache: bool = False,
    points: PointsConfig | None = None,
) -> NuScenesSamples:
    """Samples with what a model sees, and with LiDAR ``points`` where it sees none itself; see ``NuScenesSamples``."""
    preprocessor = Preprocessor(model.image) if isinstance(model, ImageModelConfig) else None
    if isinstance(model, TeacherConfig):
        points = model.points
    return NuScenesSamples(nusc, tokens, model.classes, preprocessor, cameras, cache, points=points)


class NuScenesSamples:
    """A sequence of ``Sample``.

    Args:
        nusc: open tables.
        tokens: the samples, see ``choose_samples``.
        class_names: detection classes to keep; nuScenes' categories map to them as in nuScenes' detection task.
        preprocessor: makes the images; None: none are asked for.
        cameras: channels and their order; the first is the reference, whose stamp is t_ref. None takes every camera of the
            dataset as listed there, but CAM_FRONT first.
        cache: keep the preprocessed images in memory (``with_images`` takes them from elsewhere).
        hide_unseen: leave out boxes that neither LiDAR nor radar has hit, as nuScenes' evaluation does.
        points: which LiDAR points to read; None: none are asked for.
    """

    def __init__(
        self,
        nusc: NuScenes,
        tokens: Sequence[str],
        class_names: Sequence[str],
        preprocessor: Preprocessor | None,
        cameras: Sequence[str] | None = None,
        cache: bool = False,
        hide_unseen: bool = True,
        points: PointsConfig | None = None,
    ) -> None:
        self.nusc, self.tokens, self.class_names, self.preprocessor = (
            nusc,
            list(tokens),
            tuple(class_names),
            preprocessor,
        )
        check_class_names(self.class_names)
        channels = [sensor["channel"] for sensor in nusc.sensor if sensor["modality"] == "camera"]
        for camera in cameras or ():
            if camera not in channels:
                raise UserError(f"{nusc.dataroot}: has no camera '{camera}'; it has {', '.join(channels)}")
        self.cameras = tuple(cameras or sorted(channels, key=lambda channel: channel != "CAM_FRONT"))
        if not self.cameras:
            raise UserError(f"{nusc.dataroot}: has no cameras")
        self.hide_unseen = hide_unseen
        self._lidar = None if points is None else LidarReader(nusc, points)
        self._cache: dict[str, np.ndarray] | None = {} if cache else None
        self._prepared: PreparedImages | None = None
        self._doubtful: dict[str, list[dict]] = {}
        for row in read_doubtful(Path(nusc.table_root)):
            self._doubtful.setdefault(row["sample_token"], []).append(row)

    def with_images(self, prepared: PreparedImages) -> NuScenesSamples:
        """The same samples with images and their K from ``prepared`` instead of the picture files."""
        other = copy.copy(self)
        other._prepared = prepared
        return other

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Sample:
        sample = self.geometry(index)
        return replace(sample, images=self.images(index), points=self.points(sample))

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the images; (0, 0) where none are asked for."""
        return (
            (0, 0) if self.preprocessor is None else (self.preprocessor.config.width, self.preprocessor.config.height)
        )

    def geometry(self, index: int) -> Sample:
        """A sample without its pixels and points: ``images`` is (N, 0, 0, 3), ``points`` (0, POINT)."""
        sample = self.nusc.get("sample", self.tokens[index])
        records = self.records(index)
        stamps = {camera: record["timestamp"] * 1000 for camera, record in records.items()}
        t_ref = reference_time(stamps, self.cameras[0])
        at_reference = next(records[camera] for camera, stamp in stamps.items() if stamp == t_ref)
        global_T_ego = ego_pose(self.nusc, at_reference)
        ego_T_cam = np.tile(np.eye(4), (len(self.cameras), 1, 1))
        for i, camera in enumerate(self.cameras):
            if camera in records:
                record = records[camera]
                ego_T_cam[i] = ego_ref_T_cam(global_T_ego, ego_pose(self.nusc, record), mounting(self.nusc, record))
        ego_T_global = invert(global_T_ego)
        timestamp = sample["timestamp"] * 1000
        return Sample(
            token=sample["token"],
            images=np.zeros((len(self.cameras), 0, 0, 3), np.uint8),
            K=self.intrinsics(index),
            ego_T_cam=ego_T_cam,
            mask=np.array([camera in records for camera in self.cameras]),
            boxes=self._boxes(sample).transformed(ego_T_global).propagated((t_ref - timestamp) * 1e-9),
            global_T_ego=global_T_ego,
            t_ref=t_ref,
            timestamp=timestamp,
            doubtful=doubtful_boxes(self._doubtful.get(sample["token"], ()), self.class_names).transformed(
                ego_T_global
            ),
        )

    def records(self, index: int) -> dict[str, dict]:
        """The sample_data records of a sample's cameras, by name, as far as they are there.

        Raises:
            UserError: none is.
        """
        sample = self.nusc.get("sample", self.tokens[index])
        records = {c: self.nusc.get("sample_data", sample["data"][c]) for c in self.cameras if c in sample["data"]}
        if not records:
            raise UserError(
                f"{self.nusc.dataroot}: sample {sample['token']} has none of the cameras {', '.join(self.cameras)}"
            )
        return records

    def camera(self, record: dict) -> Camera:
        """Calibration of a sample_data record; nuScenes' images are undistorted."""
        sensor = self.nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        return Camera(np.array(sensor["camera_intrinsic"]), record["width"], record["height"])

    def rig(self) -> dict[str, RigCamera]:
        """The cameras by name, each as in the first sample that has it."""
        found: dict[str, RigCamera] = {}
        for token in self.tokens:
            data = self.nusc.get("sample", token)["data"]
            for name in self.cameras:
                if name in data and name not in found:
                    record = self.nusc.get("sample_data", data[name])
                    found[name] = RigCamera(self.camera(record), mounting(self.nusc, record))
            if len(found) == len(self.cameras):
                break
        return {name: found[name] for name in self.cameras if name in found}

    def intrinsics(self, index: int) -> np.ndarray:
        """(N, 3, 3) of the images that ``images`` gives, or of the files where none are asked for."""
        if self._prepared is not None:
            return np.array(self._prepared.K[index])
        K = np.tile(np.eye(3), (len(self.cameras), 1, 1))
        for camera, record in self.records(index).items():
            own = self.camera(record)
            K[self.cameras.index(camera)] = own.K if self.preprocessor is None else self.preprocessor.plan(own).K
        return K

    def points(self, sample: Sample) -> np.ndarray:
        """Points (n, POINT) of a sample of ``geometry``; (0, POINT) where none are asked for."""
        return (
            sample.points
            if self._lidar is None
            else self._lidar.points(sample.token, sample.global_T_ego, sample.t_ref)
        )

    def images(self, index: int) -> np.ndarray:
        """(N, H, W, 3), black where a camera is missing; (N, 0, 0, 3) where none are asked for."""
        if self._prepared is not None:
            return np.array(self._prepared.images[index])
        width, height = self.image_size
        images = np.zeros((len(self.cameras), height, width, 3), np.uint8)
        if self.preprocessor is None:
            return images
        for camera, record in self.records(index).items():
            images[self.cameras.index(camera)] = self._image(record)
        return images

    def image_path(self, record: dict) -> Path:
        """The picture file of a sample_data record.

        Raises:
            UserError: its name leads out of the dataset's folder.
        """
        return inside(self.nusc.dataroot, record["filename"], f"{self.nusc.version}/sample_data.json: filename")

    def _image(self, record: dict) -> np.ndarray:
        if self._cache is not None and record["token"] in self._cache:
            return self._cache[record["token"]]
        path = self.image_path(record)
        try:
            image, _ = self.preprocessor(path.read_bytes(), self.camera(record))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        if self._cache is not None:
            self._cache[record["token"]] = image
        return image

    def classes(self, index: int) -> frozenset[int]:
        """The classes that a sample's boxes are of, by their numbers; without the work of making the boxes."""
        sample = self.nusc.get("sample", self.tokens[index])
        return frozenset(self.class_names.index(name) for name, _ in self._annotations(sample))

    def _annotations(self, sample: dict) -> Iterator[tuple[str, dict]]:
        """Class names and records of the annotations that count."""
        for token in sample["anns"]:
            annotation = self.nusc.get("sample_annotation", token)
            name = category_to_detection_name(annotation["category_name"])
            seen = annotation["num_lidar_pts"] + annotation["num_radar_pts"] > 0
            if name in self.class_names and (seen or not self.hide_unseen):
                yield name, annotation

    def _boxes(self, sample: dict) -> Boxes:
        """Annotations in the global frame at the sample's time."""
        rows = []
        for name, annotation in self._annotations(sample):
            width, length, height = annotation["size"]
            yaw = yaw_of(rotation_of(annotation["rotation"]))
            velocity = self.nusc.box_velocity(annotation["token"])[:2]
            rows.append(
                [*annotation["translation"], length, width, height, yaw, *velocity, self.class_names.index(name)]
            )
        if not rows:
            return Boxes.empty(self.class_names)
        table = np.array(rows, dtype=np.float64)
        return Boxes(
            table[:, :3], table[:, 3:6], table[:, 6], table[:, 7:9], np.ones(len(table)), table[:, 9], self.class_names
        )


def turn_rig(sample: Sample, yaw: float) -> Sample:
    """Turn the rig together with its world by ``yaw`` radians: same pictures and echoes, another base frame."""
    turned_T_ego = make_transform(rotation_z(yaw))
    return replace(
        sample,
        ego_T_cam=turned_T_ego @ sample.ego_T_cam,
        boxes=sample.boxes.transformed(turned_T_ego),
        doubtful=sample.doubtful.transformed(turned_T_ego),
        global_T_ego=sample.global_T_ego @ invert(turned_T_ego),
        points=move_points(sample.points, turned_T_ego),
    )


def move_points(points: np.ndarray, target_T_source: np.ndarray) -> np.ndarray:
    """Points (n, POINT) with their positions transformed by (4, 4), which need not be rigid; in their own float32."""
    T = target_T_source.astype(np.float32)
    moved = points.copy()
    moved[:, :3] = points[:, :3] @ T[:3, :3].T + T[:3, 3]
    return moved
