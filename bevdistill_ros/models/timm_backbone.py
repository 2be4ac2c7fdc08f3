"""Image backbones of the package timm, such as Swin-T: ``backbone: {timm: swin_tiny_patch4_window7_224}``."""

from __future__ import annotations

from torch import Tensor, nn

from bevdistill_ros.errors import UserError

STRIDES = (8, 16, 32)
"""How many pixels a cell of each of a backbone's features is wide."""


class TimmBackbone(nn.Module):
    """A model of timm without its classifier, with random weights.

    It keeps its own normalisation layers where they are not ``nn.BatchNorm2d``, whatever the model's ``norm``.

    Args:
        name: of the model in timm.
        size: (H, W) of the images.

    Attributes:
        out_channels: of the features at ``STRIDES``.

    Raises:
        UserError: timm cannot be imported, or has no such model with features at these strides.
    """

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        super().__init__()
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # the latter where torchvision was built for another torch
            raise UserError(
                f"backbone.timm '{name}' needs the package timm, which cannot be imported ({error}): pip install timm"
            ) from None
        try:
            self.network = _create(timm, name, size)
            strides = self.network.feature_info.reduction()
            self._chosen = [strides.index(stride) for stride in STRIDES]
        except (RuntimeError, ValueError, AttributeError) as error:
            raise UserError(
                f"backbone.timm '{name}': timm {timm.__version__} has no such model with features at strides "
                f"{', '.join(map(str, STRIDES))} for images of {size[1]}x{size[0]} ({' '.join(str(error).split())}); "
                "timm.list_models() lists its models"
            ) from None
        channels = self.network.feature_info.channels()
        self.out_channels = tuple(channels[i] for i in self._chosen)
        self._channels_last = str(getattr(self.network.output_fmt, "value", self.network.output_fmt)) == "NHWC"

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised RGB to the features at ``STRIDES``, of ``out_channels``."""
        features = self.network(x)
        chosen = [features[i] for i in self._chosen]
        return tuple(f.permute(0, 3, 1, 2).contiguous() if self._channels_last else f for f in chosen)


def _create(timm, name: str, size: tuple[int, int]) -> nn.Module:
    """Transformers are built for a size, convolutional networks take any and do not know the option."""
    try:
        return timm.create_model(name, pretrained=False, features_only=True, img_size=size)
    except TypeError:
        return timm.create_model(name, pretrained=False, features_only=True)
