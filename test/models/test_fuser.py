"""The fuser of camera and LiDAR features."""

from __future__ import annotations

import torch

from bevdistill_ros.models.fuser import ConvFuser


def test_it_sees_both_maps_and_the_cells_about() -> None:
    torch.manual_seed(0)
    fuser = ConvFuser(3, 5, 8).eval()
    camera, lidar = torch.randn(2, 3, 6, 7), torch.randn(2, 5, 6, 7)
    fused = fuser(camera, lidar)
    assert fused.shape == (2, 8, 6, 7) and fused.min() == 0 and fused.max() > 0
    for which in (camera, lidar):
        which[1, 0, 2, 3] += 10.0
        changed = (fuser(camera, lidar) != fused).any(dim=1)
        assert not changed[0].any() and changed[1].nonzero().aminmax(dim=0).min.tolist() == [1, 2]
        assert changed[1].nonzero().amax(dim=0).tolist() == [3, 4]
        which[1, 0, 2, 3] -= 10.0
