"""MONAI Label's batch inference, overlapped, going on after a bad image, and doing nothing twice."""

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.cores import available_cores
from lib.errors import LiverLoopError
from lib.inference.device import choose_device
from lib.inference.overlapped import workers_for
from lib.inference.task import LiverTumorInferTask

logger = logging.getLogger(__name__)

_MOST_TOLD = 20  # failures in the log's last lines


class LiverTumorBatchInferTask(BatchInferTask):
    """Segments all, the labelled or the unlabelled images and stores the results as pre-segmentations.

    Request keys beside MONAI Label's own: `again` segments also the images whose label of this tag the model in force
    made with the same post-processing. `max_batch_size` counts only what is to be done.

    Args:
        models: the app's inference tasks by name.
    """

    def __init__(self, models: Mapping[str, LiverTumorInferTask]) -> None:
        self._models = models

    def get_images(self, request: dict[str, Any], datastore: Datastore) -> list[str]:
        """The images asked for, but for those that were left out on purpose or are done already."""
        done = self._done(request, datastore)
        return [image for image in self._asked(request, datastore) if image not in done]

    def __call__(
        self, request: dict[str, Any], datastore: Datastore, infer: Callable[[dict, Datastore], dict[str, Any]]
    ) -> dict[str, Any]:
        """Segment the images, a few at once.

        Returns:
            By image what `infer` gave; `{"error": reason}` for one that can't be used; `{"skipped": True, ...}` with
            the figures of then for one that was done before.
        """
        errors: dict[str, str] = {}

        def infer_or_tell(one: dict[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return infer(one, store)
            except (LiverLoopError, OSError, MemoryError, RuntimeError) as error:  # as in `lib.inference.overlapped`
                reason = str(error) if isinstance(error, LiverLoopError) else f"{type(error).__name__}: {error}"
                errors[one["image"]] = reason
                logger.warning("not segmented: %s: %s", one["image"], reason)
                return {"error": reason}

        asked, done = self._asked(request, datastore), self._done(request, datastore)
        request = request | {"background": True}
        if not request.get("max_workers"):  # MONAI Label takes a quarter of the cores, at most all
            request["max_workers"] = min(workers_for(choose_device(request.get("device"))), max(2, available_cores()))
        if not torch.cuda.is_available():
            request |= {"multi_gpu": False, "device": "cpu"}  # otherwise it divides by the number of GPUs
        result = super().__call__(request, datastore, infer_or_tell)
        skipped = {image: done[image] | {"skipped": True} for image in asked if image in done}
        for image, reason in list(errors.items())[:_MOST_TOLD]:
            logger.warning("could not be segmented: %s: %s", image, reason)
        logger.info(
            "segmented %d of %d images; %d were done before, by the same model",
            sum("label" in answer for answer in result.values()), len(result), len(skipped),
        )  # fmt: skip
        return result | skipped

    def _asked(self, request: dict[str, Any], datastore: Datastore) -> list[str]:
        excluded = datastore.excluded_images() if hasattr(datastore, "excluded_images") else {}
        return [image for image in super().get_images(request, datastore) if image not in excluded]

    def _done(self, request: dict[str, Any], datastore: Datastore) -> dict[str, dict[str, Any]]:
        """By image, the answer of then where the same would come out now; only a folder's ledger knows."""
        task = self._models[request["model"]]
        if request.get("again") or request.get("planes") or not hasattr(datastore, "made_by_model"):
            return {}
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL
        same = {"model_version": task.source.version, "postprocessing": task.check(request).model_dump()}
        return {
            image: {"label": image, "tag": tag.value if isinstance(tag, Enum) else tag, "params": params}
            for image, params in datastore.made_by_model(tag).items()
            if {key: params.get(key) for key in same} == same
        }
