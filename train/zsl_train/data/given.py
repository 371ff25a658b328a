"""What stands in a backbone's place when the features come from a file: nothing is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from zsl_train.data.feature_file import FeatureFile

NAME = "features"


class GivenFeatures(nn.Module):
    """Rows of a feature file, handed on as they are: (N, R, V) -> (N, R, V).

    It has no weights. What it knows says which features a model trained on the file needs ever after.

    Attributes:
        file: name of the feature file.
        sha256: of that file.
        regions: R, 1 for plain vectors.
        channels: V.

    """

    name = NAME
    pixels = None

    def __init__(self, file: str, sha256: str, regions: int, channels: int) -> None:
        super().__init__()
        self.file = file
        self.sha256 = sha256
        self.regions = regions
        self.channels = channels

    @classmethod
    def of(cls, file: FeatureFile) -> GivenFeatures:
        """Of the feature file a run is trained on."""
        return cls(file.path.name, file.sha256, file.regions, file.width)

    def forward(self, features: Tensor) -> Tensor:
        """(N, R, V) float32, as they are."""
        return features

    def facts(self) -> dict[str, Any]:
        """Plain data for run.json and the manifest; `GivenFeatures(**facts)` without `name` gives it back."""
        return {
            "name": self.name,
            "file": self.file,
            "sha256": self.sha256,
            "regions": self.regions,
            "channels": self.channels,
        }

    def __str__(self) -> str:
        """For the protocol of every score."""
        shape = f"{self.channels} wide" if self.regions == 1 else f"{self.regions} regions, {self.channels} wide"
        return f"{self.file}, {shape}, sha256 {self.sha256[:12]}"
