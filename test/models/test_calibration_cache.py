"""What is made of a calibration is kept exactly as long as the calibration is the same."""

from __future__ import annotations

import torch

from bevdistill_ros.models.calibration_cache import CalibrationCache


def test_it_is_made_anew_when_anything_changes_and_only_then() -> None:
    made = []

    def make(*calibration) -> int:
        made.append(calibration)
        return len(made)

    cache: CalibrationCache[int] = CalibrationCache()
    K, T, mask = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 4, 4), torch.ones(1, 2, dtype=torch.bool)
    assert cache.get(make, K, T, mask, (2, 3)) == cache.get(make, K.clone(), T.clone(), mask.clone(), (2, 3)) == 1
    K[0, 0, 0, 0] += 1  # the caller's own tensor, changed in place
    assert cache.get(make, K, T, mask, (2, 3)) == 2
    assert cache.get(make, K, T + 1, mask, (2, 3)) == 3
    assert cache.get(make, K, T + 1, ~mask, (2, 3)) == 4
    assert cache.get(make, K, T + 1, ~mask, (3, 3)) == 5
    assert cache.get(make, K[:, :1], T[:, :1], mask[:, :1], (3, 3)) == 6
    assert cache.get(make, K, T + 1, ~mask, (3, 3)) == 7  # one is kept


def test_what_is_made_in_inference_serves_gradients() -> None:
    cache: CalibrationCache[torch.Tensor] = CalibrationCache()
    K, T, mask = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 4, 4), torch.ones(1, 2, dtype=torch.bool)
    with torch.inference_mode():
        cache.get(lambda K, *_: K * 2, K, T, mask, (1, 1))
    weight = torch.ones(1, requires_grad=True)
    (cache.get(lambda *_: torch.zeros(0), K, T, mask, (1, 1)) * weight).sum().backward()
    assert weight.grad.item() == (K * 2).sum().item()
