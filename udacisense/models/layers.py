"""What the networks are made of: resizing inside, convolution with its normalisation, the classifier's frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PX = 4096


class Resize(nn.Module):
    """Bilinear resize (``align_corners=False``, no antialiasing) of (N, C, H, W) to a square.

    The output size is a constant of the module, so tracing and FX see one operation and no branch.
    """

    def __init__(self, resolution_px: int) -> None:
        super().__init__()
        if not isinstance(resolution_px, int) or not 1 <= resolution_px <= MOST_PX:
            raise ValueError(f"resolution_px is {resolution_px}; allowed is 1 to {MOST_PX}")
        self.resolution_px = resolution_px

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (N, C, resolution_px, resolution_px)."""
        size = (self.resolution_px, self.resolution_px)
        resized: Tensor = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return resized

    def extra_repr(self) -> str:
        """Show the output size when the module is printed."""
        return f"resolution_px={self.resolution_px}"


class ConvClassifier(nn.Module):
    """Resize → convolutional features → global average pool → classifier.

    Args:
        features: maps (N, 3, R, R) to (N, F, h, w); its weights are named ``features.*``.
        classifier: maps (N, F) to logits (N, C); its weights are named ``classifier.*``.
        resolution_px: R, the edge that the features see.
        size_px: edge of the images fed in; where it equals ``resolution_px`` there is no resize at all.
    """

    def __init__(self, features: nn.Module, classifier: nn.Module, *, resolution_px: int, size_px: int) -> None:
        super().__init__()
        self.resize = nn.Identity() if size_px == resolution_px else Resize(resolution_px)
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 (N, C), of normalised images, float32 (N, 3, size_px, size_px)."""
        pooled = self.pool(self.features(self.resize(images)))
        logits: Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


def conv_bn_relu(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Return convolution → BatchNorm → ReLU; a stride of 1 keeps height and width."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def init_convolutions(features: nn.Module) -> None:
    """Draw the convolutions' weights anew for ReLU (He et al. 2015), in place."""
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def init_linear(classifier: nn.Module) -> None:
    """Draw the linear layers' weights anew, in place, as torchvision initialises MobileNetV3's classifier."""
    for module in classifier.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)
