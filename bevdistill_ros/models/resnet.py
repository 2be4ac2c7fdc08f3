"""ResNet (He et al. 2016) as an image backbone. Parameter names are torchvision's, so its checkpoints load."""

from __future__ import annotations

from torch import Tensor, nn

from bevdistill_ros.models.deformable_conv import DeformableConv

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection; ``deformable``: the second one is."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int = 1, deformable: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(channels, 1, deformable)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides, as in torchvision), 1x1 convolutions with a residual connection; ``deformable``: the 3x3 is."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int = 1, deformable: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, stride, deformable)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels_in, channels * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _conv3x3(channels: int, stride: int, deformable: bool) -> nn.Conv2d:
    if deformable:
        return DeformableConv(channels, channels, stride)
    return nn.Conv2d(channels, channels, 3, stride, 1, bias=False)


def _projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """The stages of a ResNet, without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        width: channels of the stem; 64 is the original.
        stages: how many of the four stages are built, 2 or more.
        deformable: how many of these, counted from the last, have deformable convolutions.
        frozen: the stem and how many of these, counted from the first, are not trained: neither weights nor statistics; 0: all are.
    """

    def __init__(self, depth: int, width: int = 64, stages: int = 4, deformable: int = 0, frozen: int = 0) -> None:
        super().__init__()
        if depth not in LAYERS:
            raise ValueError(f"backbone.depth {depth} is not one of {', '.join(map(str, LAYERS))}")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels_in = width
        self.stages = stages
        for stage, count in enumerate(LAYERS[depth][:stages]):
            channels = width * 2**stage
            blocks = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                blocks.append(block(channels_in, channels, stride, stage >= stages - deformable))
                channels_in = channels * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out_channels = tuple(width * 2**stage * block.expansion for stage in range(1, stages))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, DeformableConv):
                module.reset_offsets()
        self._frozen = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(frozen))) if frozen else ()
        for name in self._frozen:
            getattr(self, name).requires_grad_(False)

    def train(self, mode: bool = True) -> ResNet:
        """What is frozen normalises as in use."""
        super().train(mode)
        for name in self._frozen:
            getattr(self, name).eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised RGB to the features at strides 8, 16 and 32 (as far as built), of ``out_channels``."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        features = []
        for stage in range(2, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
            features.append(x)
        return tuple(features)
