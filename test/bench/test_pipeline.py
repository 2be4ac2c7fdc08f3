"""The stages that are timed are those of the detector: same pixels, and times that add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bevdistill_ros.bench import report
from bevdistill_ros.bench.parts import PARTS
from bevdistill_ros.bench.peaks import Peaks
from bevdistill_ros.bench.pipeline import PICTURE_PARTS, STAGES, Measured, Pipeline, decode, measure, warp
from bevdistill_ros.bench.rig_sets import RigSet
from bevdistill_ros.bench.work import picture_work
from bevdistill_ros.config import ImageConfig
from bevdistill_ros.geometry import Camera
from bevdistill_ros.preprocess import Preprocessor


@pytest.mark.parametrize("size", [(225, 400), (110, 200), (30, 50)])  # height, width: decoded at 1/1, 1/2 and 1/8
def test_decoding_and_warping_apart_give_the_preprocessors_pixels(small_sets, size):
    preprocessor = Preprocessor(ImageConfig(*size))
    picture, camera = small_sets[0].pictures[0], small_sets[0].cameras[0]
    expected, _ = preprocessor(picture, camera)
    out = np.zeros_like(expected)
    warp(decode(picture, camera, preprocessor), camera, out, preprocessor)
    assert expected.std() > 10
    np.testing.assert_array_equal(out, expected)


def test_what_is_no_jpeg_is_decoded_whole(smooth_set):
    preprocessor = Preprocessor(ImageConfig(110, 200))
    picture, camera = smooth_set.pictures[0], smooth_set.cameras[0]
    expected, _ = preprocessor(picture, camera)
    decoded = decode(picture, camera, preprocessor)
    out = np.zeros_like(expected)
    warp(decoded, camera, out, preprocessor)
    assert decoded.shape == (225, 400, 3)
    np.testing.assert_array_equal(out, expected)


def test_every_calibration_is_a_new_one(pipeline, small_sets, monkeypatch):
    made, worked_out, calibrate = [], [], pipeline.detector.runtime.calibrate

    def watched(K, pose, *more):
        made.append(pose)
        worked_out.append(calibrate(K, pose, *more))
        return worked_out[-1]

    monkeypatch.setattr(pipeline.detector.runtime, "calibrate", watched)
    pipeline.network = None
    measure(pipeline, small_sets[:1], 3)
    places = {float(pose[0, 0, 0, 3]) for pose in made}
    assert len(places) == len(made) == 5 and max(places) - min(places) < 0.01
    assert all(torch.equal(pose[..., :3], made[0][..., :3]) for pose in made)
    assert len({id(found) for found in worked_out}) == 5  # each was worked out; a pose that stays is found again
    for _ in range(3):
        pipeline.run(small_sets[0], Measured())
    assert worked_out[-1] is worked_out[-2] is worked_out[-3]


def test_pixels_that_came_decoded_are_warped_alike():
    camera = Camera(np.array([[200.0, 0, 199.5], [0, 200, 112], [0, 0, 1]]), 400, 225)
    preprocessor = Preprocessor(ImageConfig(30, 50))
    pixels = np.random.default_rng(0).integers(0, 256, (225, 400, 3), dtype=np.uint8)
    expected, _ = preprocessor(pixels, camera)
    out = np.zeros_like(expected)
    warp(decode(pixels, camera, preprocessor), camera, out, preprocessor)
    np.testing.assert_array_equal(out, expected)


def test_stages_add_up_to_the_whole(pipeline, small_sets):
    measured = measure(pipeline, small_sets, 5)
    assert tuple(measured.stages) == STAGES[:-1]  # without messages
    assert tuple(measured.picture_parts) == PICTURE_PARTS and tuple(measured.network_parts) == PARTS
    for values in (*measured.stages.values(), *measured.network_parts.values(), measured.whole, measured.boxes):
        assert len(values) == 5
    stages = np.sum(list(measured.stages.values()), axis=0)
    whole = np.array(measured.whole)
    assert (stages <= whole).all()
    assert np.median(stages / whole) > 0.8  # what is between stages is little: checks of the arguments


def test_messages_are_a_stage_where_they_are_made(tiny_detector, small_sets):
    made = []
    pipeline = Pipeline(tiny_detector, 1, None, made.append)
    measured = Measured()
    pipeline.run(small_sets[0], measured)
    pipeline.close()
    assert tuple(measured.stages) == STAGES
    assert [len(boxes) for boxes in made] == measured.boxes


def test_an_exported_model_has_stages_but_no_parts(tiny_detector, small_sets):
    pipeline = Pipeline(tiny_detector, 1, None)
    measured = measure(pipeline, small_sets, 2)
    works = picture_work(small_sets[0], tiny_detector.preprocess)
    figures = report.figures(
        pipeline, small_sets, "made-up", measured, {"resident_mb": 1.0}, works, Peaks(1e9, 1e9, 1e9, 1e9)
    )
    pipeline.close()
    assert measured.network_parts == {} and figures["floor_ratio"] is None
    assert set(figures["stages"]) == {*STAGES[:-1], *PICTURE_PARTS}
    assert "an exported model cannot be taken apart" in report.text(figures) and "chosen" not in report.text(figures)
    assert "torch was chosen: auto: no such luck" in report.text({**figures, "backend_note": "auto: no such luck"})


def test_a_picture_that_cannot_be_decoded_is_an_error(pipeline, small_sets):
    good = small_sets[0]
    broken = RigSet(good.names, (good.pictures[0][:100], *good.pictures[1:]), good.cameras, good.ego_T_cam)
    with pytest.raises(ValueError, match="cannot be decoded|can be decoded"):
        pipeline.preprocess(broken)
