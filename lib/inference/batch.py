"""MONAI Label's batch inference, going on after an image that can't be used and running without a GPU too."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.errors import LiverLoopError

logger = logging.getLogger(__name__)


class LiverTumorBatchInferTask(BatchInferTask):
    """Segments all, the labelled or the unlabelled images and stores the results as pre-segmentations."""

    def get_images(self, request: dict[str, Any], datastore: Datastore) -> list[str]:
        """The images asked for, but for those that were left out on purpose."""
        excluded = datastore.excluded_images() if hasattr(datastore, "excluded_images") else {}
        return [image for image in super().get_images(request, datastore) if image not in excluded]

    def __call__(
        self, request: dict[str, Any], datastore: Datastore, infer: Callable[[dict, Datastore], dict[str, Any]]
    ) -> dict[str, Any]:
        """Segment the images; an image that can't be used gets `{"error": reason}` instead of ending the batch."""
        refused: list[str] = []

        def infer_or_tell(one: dict[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return infer(one, store)
            except LiverLoopError as error:
                refused.append(str(error))
                logger.warning("not segmented: %s", error)
                return {"error": str(error)}

        if not torch.cuda.is_available():
            request = request | {"multi_gpu": False, "device": "cpu"}  # otherwise it divides by the number of GPUs
        result = super().__call__(request, datastore, infer_or_tell)
        logger.info("segmented %d of %d images", len(result) - len(refused), len(result))
        return result
