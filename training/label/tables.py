"""A version of a dataset's tables whose scenes have other annotations: all else is shared with the version it was made from.

While it is made, the rows of finished scenes are in ROOT/.<version>.partial; the tables appear at once when all are done.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes

from bevdistill_ros.errors import UsageError, UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.training.convert.annotations import CATEGORY_OF_CLASS
from bevdistill_ros.training.data.doubtful import DOUBTFUL, read_doubtful
from bevdistill_ros.training.data.inside import plain_name
from bevdistill_ros.training.data.nuscenes_tables import token

SETTINGS = "label.json"
"""In the version's folder: what it was made with, and the report."""


class LabelledVersion:
    """Writes one version; resumable.

    Args:
        nusc: the tables that it is made from.
        version: its name.
        settings: what it is made with; a version made with others is refused, what is unfinished of others is made anew.

    Raises:
        UsageError: the name is none.
        UserError: another version of that name is there.
    """

    def __init__(self, nusc: NuScenes, version: str, settings: Mapping[str, Any]) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", version):
            raise UsageError(
                f"--output {version}: a version is the name of a folder in {nusc.dataroot}, e.g. v1.0-labels"
            )
        self.source = Path(nusc.table_root)
        self.folder = Path(nusc.dataroot) / version
        self.settings = json.loads(json.dumps(settings))
        self._partial = self.folder.with_name(f".{version}.partial")
        if self.folder.exists() and not self.complete:
            raise UserError(
                f"--output {version}: {self.folder} is there already and was not made by this labelling; remove it, or "
                "choose another name"
            )
        if self.complete or _read(self._partial / SETTINGS) != {"settings": self.settings}:
            shutil.rmtree(self._partial, ignore_errors=True)
        if not self.complete:
            write_atomically(self._partial / SETTINGS, json.dumps({"settings": self.settings}))

    @property
    def complete(self) -> bool:
        """Whether it is there, made with these settings."""
        return self._made.get("settings") == self.settings

    @property
    def report(self) -> dict[str, Any]:
        """The report of the complete version."""
        return self._made["report"]

    @property
    def _made(self) -> dict[str, Any]:
        return _read(self.folder / SETTINGS)

    def scene(self, name: str) -> dict[str, Any] | None:
        """What an interrupted run has finished of a scene."""
        return _read(self._scene_path(name)) or None

    def add_scene(self, name: str, rows: Mapping[str, Any]) -> None:
        """Keep a finished scene: its ``annotations``, ``instances`` and ``doubtful`` boxes, and more to be kept beside them."""
        write_atomically(self._scene_path(name), json.dumps(rows))

    def finish(self, scenes: Mapping[str, Collection[str]], report: Mapping[str, Any]) -> None:
        """Write the tables.

        Args:
            scenes: tokens of the samples by name of each labelled scene; the others keep the annotations that they have.
            report: what was done.
        """
        new = self._partial / "tables"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        labelled = {sample for samples in scenes.values() for sample in samples}
        annotations, instances = _others(self.source, labelled)
        doubtful = [row for row in read_doubtful(self.source) if row["sample_token"] not in labelled]
        for name in scenes:
            rows = self.scene(name)
            annotations += rows["annotations"]
            instances += rows["instances"]
            doubtful += rows["doubtful"]
        _write_table(new / "sample_annotation.json", annotations)
        _write_table(new / "instance.json", instances)
        _write_table(new / DOUBTFUL, doubtful)
        _write_table(new / "category.json", with_categories(_table(self.source, "category")))
        write_atomically(new / SETTINGS, json.dumps({"settings": self.settings, "report": report}, indent=2) + "\n")
        for path in self.source.glob("*.json"):
            if not (new / path.name).exists():
                _share(path, new / path.name)
        new.rename(self.folder)
        shutil.rmtree(self._partial)

    def _scene_path(self, name: str) -> Path:
        return self._partial / "scenes" / f"{plain_name(name, f'{self.source}/scene.json: name')}.json"


def with_categories(table: Sequence[dict]) -> list[dict]:
    """A category table that has a category of every detection class."""
    known = {row["name"] for row in table}
    missing = [name for name in CATEGORY_OF_CLASS.values() if name not in known]
    return [*table, *({"token": token("category", name), "name": name, "description": ""} for name in missing)]


def _others(source: Path, labelled: Collection[str]) -> tuple[list[dict], list[dict]]:
    """Annotations and instances of samples that are not labelled."""
    annotations = [row for row in _table(source, "sample_annotation") if row["sample_token"] not in labelled]
    kept = {row["instance_token"] for row in annotations}
    return annotations, [row for row in _table(source, "instance") if row["token"] in kept]


def _table(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"{name}.json").read_bytes())


def _write_table(path: Path, rows: Iterable[dict]) -> None:
    """A JSON list, a record a line."""
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, row in enumerate(rows):
                file.write((",\n" if number else "\n") + json.dumps(row))
            file.write("\n]\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a full disk names no file of its own
        raise


def _share(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such links. Tables are replaced, never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it is not there or cut off."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
