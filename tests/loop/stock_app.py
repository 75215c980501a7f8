"""An app as MONAI Label's own samples are: its classes, a tiny network, and nothing done about safety."""

from pathlib import Path

MODEL = "tiny"
_MAIN = """
import os

import torch
from monai.inferers import SimpleInferer
from monai.losses import DiceLoss
from monai.transforms import Activationsd, EnsureChannelFirstd, EnsureTyped, LoadImaged, SqueezeDimd
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.scoring.sum import Sum
from monailabel.tasks.train.basic_train import BasicTrainTask
from monailabel.transform.writer import Writer


def network():
    made = torch.nn.Conv3d(1, 1, 1)  # hands on what it gets
    torch.nn.init.ones_(made.weight)
    torch.nn.init.zeros_(made.bias)
    return made


class TinyInfer(BasicInferTask):
    def __init__(self, path):
        super().__init__(
            path=path, network=network(), type=InferType.SEGMENTATION, labels={"liver": 1}, dimension=3,
            description="tiny",
        )

    def pre_transforms(self, data=None):
        return [LoadImaged(keys="image"), EnsureTyped(keys="image"), EnsureChannelFirstd(keys="image")]

    def inferer(self, data=None):
        return SimpleInferer()

    def post_transforms(self, data=None):
        return [SqueezeDimd(keys="pred", dim=0)]

    def writer(self, data, extension=None, dtype=None):
        return Writer(label="pred", json="result", nibabel=True)(data)  # ITK takes seconds to import


class TinyTrain(BasicTrainTask):
    def network(self, context):
        return network()

    def optimizer(self, context):
        return torch.optim.SGD(context.network.parameters(), 0.001)

    def loss_function(self, context):
        return DiceLoss(sigmoid=True)

    def train_pre_transforms(self, context):
        keys = ("image", "label")
        return [LoadImaged(keys=keys), EnsureTyped(keys=keys), EnsureChannelFirstd(keys=keys)]

    def train_post_transforms(self, context):
        return [Activationsd(keys="pred", sigmoid=True)]

    def val_inferer(self, context):
        return SimpleInferer()


class TinyApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self.model = os.path.join(app_dir, "model", "tiny.pt")
        os.makedirs(os.path.dirname(self.model), exist_ok=True)
        if not os.path.exists(self.model):
            torch.save(network().state_dict(), self.model)
        super().__init__(app_dir, studies, conf, name="tiny", description="tiny")

    def init_infers(self):
        return {"tiny": TinyInfer([self.model])}

    def init_trainers(self):
        folder = os.path.join(self.app_dir, "model", "tiny")
        return {"tiny": TinyTrain(folder, "tiny", load_path=self.model, publish_path=self.model)}

    def init_scoring_methods(self):
        return {"sum": Sum()}
"""


def write_app(folder: Path) -> Path:
    """The app in a new folder."""
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(_MAIN)
    return folder
