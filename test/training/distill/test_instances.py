"""Single objects of a teacher, and the student's of the same."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import torch

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models.box_code import BOX_CODE, decode_boxes, decoded_codes, encode_boxes
from bevdistill_ros.models.outputs import Outputs, QueryOutputs
from bevdistill_ros.training.distill.instances import (
    BOX_COST,
    Instances,
    center_instances,
    find_in_student,
    match_queries,
    quality,
    query_instances,
    read_cells,
    teacher_instances,
)


def queries(layers: int, samples: int, count: int, seed: int = 0) -> QueryOutputs:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, samples, count, len(CLASS_NAMES), generator=rng)
    return QueryOutputs(logits, torch.randn(layers, samples, count, BOX_CODE, generator=rng))


def run(network, batch) -> Outputs:
    with torch.no_grad():
        return network(*(batch[name] for name in network.inputs))


def test_the_best_queries_of_the_last_layer() -> None:
    outputs = queries(2, 2, 8)
    found = query_instances(outputs, 3)
    for s, own in enumerate(found):
        scores = outputs.logits[-1, s].sigmoid().amax(dim=1)
        best = sorted(range(8), key=lambda q: -scores[q])[:3]
        torch.testing.assert_close(own.scores, scores[best])
        torch.testing.assert_close(own.codes, decoded_codes(outputs.codes[-1, s, best]))
        torch.testing.assert_close(own.probabilities, outputs.logits[-1, s, best].sigmoid())
        assert own.labels.tolist() == outputs.logits[-1, s, best].argmax(dim=1).tolist()
    assert [len(own) for own in query_instances(outputs, 50)] == [8, 8]


def test_a_centre_heads_are_its_decoded_boxes(make_teacher, make_batch) -> None:
    teacher = make_teacher()
    outputs = run(teacher, make_batch(2))
    config = teacher.config
    found = center_instances(outputs.center, config.grid, config.classes, config.head, 7)
    teacher.config = replace(config, head=replace(config.head, max_boxes=7))
    for s, (own, boxes) in enumerate(zip(found, teacher.decode(outputs), strict=True)):
        assert len(own) == len(boxes) == 7
        ours = own.boxes(CLASS_NAMES)
        for name in ("centers", "sizes", "yaws", "velocities", "scores", "labels"):
            np.testing.assert_allclose(getattr(ours, name), getattr(boxes, name), atol=1e-5, err_msg=name)
        # The probabilities of all classes are those of the cell that it is read from.
        column, row = config.grid.to_cells(own.places).floor().long().T
        torch.testing.assert_close(own.probabilities, outputs.center.heatmap[s, :, row, column].sigmoid().T)


def test_a_teachers_codes_are_those_of_its_boxes(make_teacher, make_batch) -> None:
    """Headings of unit length, however unsure, and sizes as they are decoded."""
    for kind in ("head", "queries"):
        teacher = make_teacher(kind)
        outputs = run(teacher, make_batch(1))
        raw = outputs.queries.codes[-1] if kind == "queries" else outputs.center.codes.flatten(3).transpose(2, 3)
        assert (raw[..., 6:8].norm(dim=-1) - 1).abs().max() > 0.1  # of an untrained head
        (own,) = teacher_instances(outputs, teacher, 5, teacher)
        np.testing.assert_allclose(encode_boxes(own.boxes(CLASS_NAMES)), own.codes, atol=1e-5)


def test_of_two_peaks_in_one_place_there_is_one(make_teacher, make_batch) -> None:
    """Suppression is that of ``decode``: within 0.5 m by default."""
    teacher = make_teacher()
    center = run(teacher, make_batch(1)).center
    heatmap, codes = torch.full_like(center.heatmap, -20.0), torch.zeros_like(center.codes)
    heatmap[0, 0, 2, 3], heatmap[0, 0, 2, 5] = 3.0, 2.0
    codes[0, :, 0, 2, 5] = -2.0  # both have their centre in column 3
    config = teacher.config
    outputs = replace(center, heatmap=heatmap, codes=codes)
    (own,) = center_instances(outputs, config.grid, config.classes, config.head, 1)
    assert own.codes[0, :2].tolist() == [-16.0 + 2 * 3.5, -8.0 + 2 * 2.5]
    (own,) = center_instances(outputs, config.grid, config.classes, config.head, 5)
    assert (own.scores > 0.5).sum() == 1


def test_a_head_reads_itself_as_it_is(make_teacher, make_batch) -> None:
    teacher = make_teacher()
    outputs = run(teacher, make_batch(2))
    instances = teacher_instances(outputs, teacher, 5, teacher)
    (found,) = find_in_student(outputs, teacher, instances)
    for own, instance in zip(found, instances, strict=True):
        torch.testing.assert_close(decoded_codes(own.codes), instance.codes)
        torch.testing.assert_close(own.logits.sigmoid(), instance.probabilities)


def test_a_finer_grid_is_read_at_the_same_place(make_teacher, make_batch, make_student) -> None:
    """The student's cells are half the size: the one that holds the place is read, and its codes are in its own cells."""
    student = make_student(cell=1.0)
    center = run(student, make_batch(1)).center
    codes = torch.zeros_like(center.codes)
    codes[0, :, 0, 5, 21], codes[0, :, 1, 5, 21] = 0.25, -0.5
    heatmap = torch.zeros_like(center.heatmap)
    heatmap[0, :, 5, 21] = torch.arange(10.0)
    wanted = Instances(torch.zeros(1, BOX_CODE), torch.zeros(1, 10), torch.tensor([7]), torch.tensor([[5.5, -2.5]]))
    config = student.config
    outputs = replace(center, heatmap=heatmap, codes=codes)
    (found,) = read_cells(outputs, config.grid, config.classes, config.head, [wanted])
    assert found.codes[0, :2].tolist() == [5.75, -3.0]
    assert found.logits[0].tolist() == list(range(10))


def test_the_matching_is_the_cheapest_of_all() -> None:
    student, teacher = queries(2, 2, 4), queries(1, 2, 3, seed=1)
    instances = query_instances(teacher, 3)
    for layer, found in enumerate(match_queries(student, instances)):
        for s, own in enumerate(found):
            p = instances[s].probabilities
            cost = np.zeros((4, 3))
            for q in range(4):
                for k in range(3):
                    logits = student.logits[layer, s, q]
                    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, p[k], reduction="sum")
                    l1 = (student.codes[layer, s, q, :8] - instances[s].codes[k, :8]).abs().sum()
                    cost[q, k] = entropy + BOX_COST * l1
            best = min(permutations(range(4), 3), key=lambda rows: sum(cost[q, k] for k, q in enumerate(rows)))
            chosen = student.codes[layer, s, list(best)]
            torch.testing.assert_close(own.codes[own.which.argsort()], chosen)


def test_the_teachers_head_is_of_the_students_kind(make_student, make_teacher, make_batch) -> None:
    """A teacher with both heads serves both kinds; one with one head serves any."""
    batch = make_batch(1)
    center, query = make_student("head"), make_student("queries")
    both = make_teacher("head", "queries")
    outputs = run(both, batch)
    as_center, as_query = (teacher_instances(outputs, both, 4, like)[0] for like in (center, query))
    torch.testing.assert_close(as_query.codes, query_instances(outputs.queries, 4)[0].codes)
    assert not torch.equal(as_center.codes, as_query.codes)
    (of_center,) = teacher_instances(run(make_teacher(), batch), make_teacher(), 4, query)
    assert len(find_in_student(run(query.eval(), batch), query, [of_center])[0][0].which) == 4
    teacher = make_teacher("queries")
    (of_queries,) = teacher_instances(run(teacher, batch), teacher, 4, center)
    assert len(find_in_student(run(center.eval(), batch), center, [of_queries])[0][0].which) == 4


def test_quality_is_confidence_and_overlap() -> None:
    """A box of 4 m x 2 m turned by a right angle on itself: 4 m2 of 12 m2."""
    code = torch.tensor([1.0, 2.0, 0.0, math.log(4), math.log(2), 0.0, 1.0, 0.0, 0.0, 0.0])
    probabilities = torch.zeros(3, 10)
    probabilities[:, 0], probabilities[2, 3] = 0.64, 0.81
    labels = torch.tensor([0, 0, 3])
    codes = torch.stack([code, code + 100 * torch.eye(10)[0], code])
    instances = Instances(codes, probabilities, labels, codes[:, :2])
    turned = code.clone()
    turned[6:8] = torch.tensor([0.0, 1.0])
    truth = decode_boxes(turned[None].double().numpy(), np.ones(1), np.zeros(1, dtype=int), CLASS_NAMES)
    torch.testing.assert_close(quality(instances, truth, 1.0), torch.tensor([0.64, 0.64, 0.81]))
    torch.testing.assert_close(quality(instances, truth, 0.5), torch.tensor([0.8 * (1 / 3) ** 0.5, 0.0, 0.0]))
    torch.testing.assert_close(quality(instances, truth, 0.0), torch.tensor([1 / 3, 0.0, 0.0]))
    nothing = Boxes.empty(CLASS_NAMES)
    assert quality(instances, nothing, 0.5).tolist() == [0.0, 0.0, 0.0]
    assert quality(instances[:0], truth, 0.5).shape == (0,)
