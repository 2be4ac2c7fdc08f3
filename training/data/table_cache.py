"""What samples need of a dataset's tables, in one SQLite file: made once, read by every process without holding it in memory.

nuscenes-devkit reads all tables into Python objects at every start, which for v1.0-trainval takes most of a minute and several
gigabytes in every process that loads samples. The file holds the same records by token, without the sweeps of cameras and radars.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes

from bevdistill_ros.errors import UserError

SMALL = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "log",
    "scene",
    "sample",
    "map",
)
"""Tables that are read whole when the file is made."""

LISTED = ("category", "attribute", "visibility", "sensor", "scene", "log")
"""Tables that an opened file gives as lists, as the devkit does with all."""

LARGE = ("sample_annotation", "sample_data", "ego_pose")

FORMAT = 1

CHUNK = 1 << 22
"""Characters read at a time."""


class CachedTables(NuScenes):
    """The devkit's tables from such a file: ``get``, ``box_velocity`` and the lists of ``LISTED``.

    Every thread of every process opens it for itself.
    """

    def __init__(self, file: Path, version: str, root: str | Path) -> None:
        # The devkit's own __init__ would read the tables.
        self.version, self.dataroot, self.verbose, self.file = version, str(root), False, file
        self._local = threading.local()
        for table in LISTED:
            rows = self._connection().execute("SELECT record FROM records WHERE name = ? ORDER BY rowid", (table,))
            setattr(self, table, [json.loads(record) for (record,) in rows])

    def __reduce__(self) -> tuple:
        return CachedTables, (self.file, self.version, self.dataroot)

    def get(self, table_name: str, token: str) -> dict:
        """A record by its token.

        Raises:
            KeyError: there is none.
        """
        query = "SELECT record FROM records WHERE name = ? AND token = ?"
        found = self._connection().execute(query, (table_name, token)).fetchone()
        if found is None:
            raise KeyError(f"{table_name} {token}")
        return json.loads(found[0])

    def _connection(self) -> sqlite3.Connection:
        """This thread's own, and not that of the process it was forked from."""
        if getattr(self._local, "process", None) != os.getpid():
            self._local.process = os.getpid()
            self._local.connection = _open(self.file)
        return self._local.connection


def open_table_cache(root: str | Path, version: str, folder: Path) -> CachedTables:
    """The tables of a version from their file in ``folder``, which is made first where there is none or the tables have changed.

    Raises:
        UserError: the tables cannot be read.
    """
    tables = Path(root) / version
    place = hashlib.sha256(str(tables.resolve()).encode()).hexdigest()[:12]
    file = folder / f"{version}-{place}.tables"
    state = _state(tables)
    if not _is_of(file, state):
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{file}: taking in the tables of {tables}, once", file=sys.stderr)
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        try:
            partial.unlink(missing_ok=True)
            _fill(partial, tables, state)
            os.replace(partial, file)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{tables}: the tables cannot be read ({type(error).__name__}: {error})") from None
        except sqlite3.Error as error:
            raise UserError(f"{partial}: cannot be written ({error})") from None
        finally:
            partial.unlink(missing_ok=True)
    return CachedTables(file, version, root)


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def _state(tables: Path) -> str:
    """What tells whether the tables are the same: their sizes and times."""
    try:
        found = {name: (tables / f"{name}.json").stat() for name in (*SMALL, *LARGE)}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return json.dumps([FORMAT, {name: [status.st_size, status.st_mtime_ns] for name, status in found.items()}])


def _is_of(file: Path, state: str) -> bool:
    if not file.is_file():
        return False
    connection = _open(file)
    try:
        return connection.execute("SELECT record FROM records WHERE name = 'state'").fetchone() == (state,)
    except sqlite3.Error:
        return False
    finally:
        connection.close()


def _fill(file: Path, tables: Path, state: str) -> None:
    """Write the records as the devkit gives them, with its shortcuts between the tables."""
    small = {name: list(_records(tables / f"{name}.json")) for name in SMALL}
    samples = {row["token"]: {**row, "data": {}, "anns": []} for row in small.pop("sample")}
    categories = {row["token"]: row["name"] for row in small["category"]}
    category_of = {row["token"]: categories[row["category_token"]] for row in small["instance"]}
    sensors = {row["token"]: row for row in small["sensor"]}
    sensor_of = {row["token"]: sensors[row["sensor_token"]] for row in small["calibrated_sensor"]}
    poses: set[str] = set()

    def annotations() -> Iterator[dict]:
        for row in _records(tables / "sample_annotation.json"):
            samples[row["sample_token"]]["anns"].append(row["token"])
            yield {**row, "category_name": category_of[row["instance_token"]]}

    def readings() -> Iterator[dict]:
        for row in _records(tables / "sample_data.json"):
            sensor = sensor_of[row["calibrated_sensor_token"]]
            if row["is_key_frame"]:
                samples[row["sample_token"]]["data"][sensor["channel"]] = row["token"]
            elif sensor["modality"] != "lidar":
                continue
            poses.add(row["ego_pose_token"])
            yield {**row, "sensor_modality": sensor["modality"], "channel": sensor["channel"]}

    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # an unfinished file is thrown away
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE records (name TEXT, token TEXT, record TEXT)")

        def write(name: str, rows: Any) -> None:
            values = ((name, row["token"], json.dumps(row, separators=(",", ":"))) for row in rows)
            connection.executemany("INSERT INTO records VALUES (?, ?, ?)", values)

        for name, rows in small.items():
            write(name, rows)
        write("sample_annotation", annotations())
        write("sample_data", readings())
        write("ego_pose", (row for row in _records(tables / "ego_pose.json") if row["token"] in poses))
        write("sample", samples.values())
        connection.execute("INSERT INTO records VALUES ('state', '', ?)", (state,))
        connection.execute("CREATE UNIQUE INDEX by_token ON records (name, token)")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _records(path: Path) -> Iterator[dict]:
    """Records of a JSON file that is a list of objects, one at a time.

    Raises:
        ValueError: it is not.
    """
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as file:
        text = file.read(CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path.name} is no list")
        at, ended = 1, False
        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at < len(text) and text[at] == "]":
                return
            try:
                record, at = decoder.raw_decode(text, at)
            except ValueError:
                if ended:
                    raise ValueError(f"{path.name} is cut short or no JSON") from None
                more = file.read(CHUNK)
                text, at, ended = text[at:] + more, 0, not more
                continue
            yield record
