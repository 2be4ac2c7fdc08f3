"""Whatever a driver sends, doctor answers: no message makes a check fail."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bevdistill_ros.doctor.checks import examine
from bevdistill_ros.doctor.picture import picture
from bevdistill_ros.doctor.report import as_json, table
from bevdistill_ros.geometry import make_transform, rotation_from_quaternion

NUMBER = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, -1.0, 160.0, 95.5]))
COUNT = st.integers(0, 2**32 - 1)
MATRIX = st.one_of(
    st.just([160.0, 0.0, 159.5, 0.0, 160.0, 95.5, 0.0, 0.0, 1.0]), st.lists(NUMBER, min_size=9, max_size=9)
)
INFOS = st.builds(
    SimpleNamespace,
    width=st.one_of(st.just(320), COUNT),
    height=st.one_of(st.just(192), COUNT),
    k=MATRIX,
    p=st.lists(NUMBER, min_size=12, max_size=12),
    d=st.lists(NUMBER, max_size=14),
    r=MATRIX,
    distortion_model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "fov"]),
    binning_x=st.one_of(st.integers(0, 4), COUNT),
    binning_y=st.one_of(st.integers(0, 4), COUNT),
    roi=st.builds(SimpleNamespace, x_offset=COUNT, y_offset=COUNT, width=st.just(0), height=st.just(0)),
)
STAMPS = st.lists(
    st.one_of(st.just(0), st.integers(0, 2**62), st.integers(0, 40).map(lambda n: 10**18 + n * 10**8)), max_size=25
)
TURN = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)
PLACE = st.tuples(*[st.floats(-1e6, 1e6)] * 3)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(INFOS, STAMPS, TURN, PLACE, st.booleans(), st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_every_rig_gets_an_answer(rig, info, stamps, turn, place, rectified, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflows of absurd calibrations
        pose = make_transform(rotation_from_quaternion(turn), place)
        camera = rig.camera(
            "left", info, rectified=rectified, arrivals=rig.arrivals(stamps), base_T_camera=pose, sizes=(size,)
        )
        facts = rig({"rectified": rectified}, [camera])
        findings = examine(facts)
        document = as_json(facts, findings)
        image = picture(facts.cameras, 160)
    assert json.dumps(document, allow_nan=False) and table(findings) and image.size
