"""Networks that several tests share and the package does not have."""

from torch import Tensor, nn

from ifcheck.models import Network

CLASSES = 3


class LeNet(Network):
    """Every layer that has a Bayesian form, in the order of LeNet; for images (1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(2, 4, 2),
            nn.SELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4, 5),
            nn.ReLU(),
        )
        self.head = nn.Linear(5, CLASSES)

    def features(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)
