"""The MONAI Label application: `lib`'s tasks behind MONAI Label's interfaces."""

import gc
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from monailabel.config import settings as config
from monailabel.endpoints import train
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.activelearning.score_keeper import ScoreKeeper
from lib.activelearning.tasks import DiceScoring, ScoresScoring, strategy_tasks
from lib.errors import BadInputError, LiverLoopError, NotFoundError, StorageError, UnavailableError
from lib.imports import end_imports
from lib.inference.batch import LiverTumorBatchInferTask
from lib.inference.device import choose_device
from lib.inference.model import ModelSource
from lib.inference.task import LiverTumorInferTask
from lib.settings import load_settings
from lib.store.accounts import Accounts
from lib.store.door import named_in_errors
from lib.store.figures import LedgerFigures
from lib.store.folder import FolderDatastore
from lib.store.layout import FINAL
from lib.store.store import Store
from lib.store.versions import Version
from lib.training.preflight import check_ledger
from lib.training.recording import BY_ITSELF
from lib.training.registry import Registry
from lib.training.task import LiverTumorTrainTask
from lib.volume_io import read_grid
from lib.web.answers import install_answers
from lib.web.campaign import CampaignStats
from lib.web.endpoints import install_endpoints
from lib.web.environment import settle_environment
from lib.web.guard.handed_out import HandedOut
from lib.web.idle_scoring import IdleScoring
from lib.web.job_records import BATCH, SCORING, TRAIN, JobRecords
from lib.web.jobs import begin_jobs, end_jobs, end_with_server, interrupted_jobs, running_jobs
from lib.web.log import keep_private, keep_private_in_job
from lib.web.login_requests import warn_unless_guarded
from lib.web.logins import Logins
from lib.web.metrics import Metrics, State
from lib.web.origins import install_origins
from lib.web.retraining import Retraining
from lib.web.sessions import Sessions
from lib.web.stopping import Stopping
from lib.web.traffic import STOPPING, Traffic, TrafficMiddleware

logger = logging.getLogger(__name__)

# Read by MONAI Label itself, not by app.yaml.
_SERVER_KEYS = {"server_mode"}


class LiverLoopApp(MONAILabelApp):
    """An app folder with `app.yaml` and `starter.pt`; a second one needs only those and a `main.py` of a few lines.

    Args:
        app_dir: the app folder; `model/` in it gets the trainings.
        studies: a folder, or the address of a PACS (the root of its DICOMweb service).
        conf: `--conf` overrides of `app.yaml`.

    Raises:
        SettingsError: `app.yaml` or an override is wrong.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        end_imports()  # of the whole server, which scripts/serve began
        if end_with_server():
            keep_private_in_job()
            gc.freeze()  # MONAI Label starts jobs, and began no imports there; they end two seconds sooner
        settle_environment()
        folder = Path(app_dir)
        self.jobs = JobRecords(folder / "model")
        self.metrics = Metrics()
        overrides = {key: value for key, value in (conf or {}).items() if key not in _SERVER_KEYS}
        self.settings = load_settings(folder / "app.yaml", overrides)
        self.source = ModelSource.of_app(self.settings, folder)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=self.settings.name,
            description=self.settings.description,
            version="1",
            labels=list(self.settings.label_indices()),  # a dict here breaks OHIF
        )
        model = self.settings.model_name
        self.retraining = Retraining(
            self.settings.training.by_itself,
            self.store.ledger if self.store else None,
            check=lambda: self.check_training(model, {}),
            start=lambda number: train.run_model(model, {BY_ITSELF: number}),
        )
        self.traffic = Traffic(self.metrics.request_done)
        self.stopping = Stopping(
            self.traffic, self.settings.server.stop_seconds, self._end_jobs, self._infers[model].close
        )
        self.scoring_when_idle = IdleScoring(
            self._keeper,
            self.store.ledger if self.store else None,
            self.source,
            segment=self._infers[model].shared.score,
            is_idle=self._is_idle,
            enabled=self.settings.active_learning.score_when_idle,
        )
        self._figures = LedgerFigures(self.store.ledger) if self.store else None
        self._campaign = CampaignStats(self.store, lambda: self.registry) if self.store else None
        access = self.settings.access
        self.handed_out = HandedOut()
        self.logins = Logins(access, Accounts(self.store.ledger, access.token_hours) if self.store else None)

    def init_datastore(self) -> Datastore:
        """The same store for a folder and for a PACS; MONAI Label's own, which downloads programs, is never used."""
        return FolderDatastore(self.studies, self.settings, self.app_dir)

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        """Ours in place of MONAI Label's, which asks for them by this name."""
        if not load:
            return None
        folder = config.MONAI_LABEL_SESSION_PATH.strip()
        default = Path.home() / ".cache" / "monailabel" / "sessions"  # as MONAI Label's
        return Sessions(Path(folder) if folder else default, config.MONAI_LABEL_SESSION_EXPIRY, self.settings.limits)

    @property
    def store(self) -> Store | None:
        """The store of the folder or the PACS; None behind a datastore of another kind."""
        datastore = self.datastore()
        return datastore.store if isinstance(datastore, FolderDatastore) else None

    @property
    def registry(self) -> Registry:
        """The app's model versions, with an index in the studies folder's ledger."""
        return Registry(self.app_dir, self.settings, self.store.ledger if self.store else None)

    def init_infers(self) -> dict[str, InferTask]:
        """The segmentation model, watched for scores where nobody waits for it."""
        self._keeper = ScoreKeeper(self.store, self.settings) if self.store else None
        watch = self._keeper.watch if self._keeper else None
        return {self.settings.model_name: LiverTumorInferTask(self.settings, self.source, watch)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """The trainer of the segmentation model."""
        folder = Path(self.app_dir) / "model"
        return {self.settings.model_name: LiverTumorTrainTask(self.settings, self.source, folder, self.jobs.note)}

    def init_strategies(self) -> dict[str, Strategy]:
        """The strategies of `app.yaml`, the default first.

        Raises:
            SettingsError: there is no strategy of such a name.
        """
        return strategy_tasks(self.settings, self.source)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """The scoring methods of `app.yaml`."""
        methods = {
            "dice": DiceScoring(self.settings),
            "scores": ScoresScoring(self.settings, self.source),
        }
        return {name: methods[name] for name in self.settings.active_learning.scoring}

    def init_batch_infer(self) -> LiverTumorBatchInferTask:
        """Batch inference over the pool."""
        return LiverTumorBatchInferTask(self._infers)

    def info(self) -> dict[str, Any]:
        """What clients show of the app, and how things stand with inference and retraining."""
        inference = self._infers[self.settings.model_name].shared.info()
        told = super().info()
        campaign = self._campaign.told() if self._campaign else {}
        # Of figures that don't exist yet clients make a training that is at 100 %.
        stats = {name: figures | campaign for name, figures in told["train_stats"].items() if figures}
        told |= {"train_stats": stats, "inference": inference, "retraining": self.retraining.info(), **campaign}
        told["scores"] = self.scoring_when_idle.info()
        interrupted = interrupted_jobs()
        return told | ({"interrupted": interrupted} if interrupted else {})

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train; a server that is started later shows whether that was interrupted."""
        with self.jobs.kept(TRAIN, request):
            result: dict[str, Any] = super().train(request)
            return result

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Score images; see `train`."""
        with self.jobs.kept(SCORING, request):
            result: dict[str, Any] = super().scoring(request, datastore)
            return result

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment many images; see `train`."""
        with self.jobs.kept(BATCH, request):
            result: dict[str, Any] = super().batch_infer(request, datastore)
            return result

    def check_ready(self) -> None:
        """Make sure that requests can be answered now.

        Raises:
            UnavailableError: the server is being stopped.
            ModelError: there is no model, or it can't be used.
            StorageError: the ledger does not answer.
        """
        if self.stopping.has_begun:
            raise UnavailableError(STOPPING)
        self.source.get(choose_device())
        if self.store is not None:
            with self.store.ledger.reading() as connection:
                self.store.ledger.fact(connection, "schema")

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """Called after each label that a client saved."""
        super().on_save_label(image_id, label_id)
        self.retraining.notice_label()

    def _found_in_pacs(self, version: Version) -> None:
        """A SEG that somebody stored in the PACS counts like a label that a client submits."""
        if version.tag == FINAL:
            self.retraining.notice_label()

    def stored_in_pacs(self, study_uid: str, authors: Mapping[str, str]) -> None:
        """A viewer has just stored a SEG through this server: no need to find it, and who did is known."""
        if self.store is not None and self.store.segs is not None:
            self.store.segs.look_at_study(study_uid, authors)

    def check_inference(self, model: str, params: dict[str, Any]) -> None:
        """Refuse an inference or a batch of them before it starts.

        Raises:
            NotFoundError: there is no such model.
            BadInputError: a value that can't be used.
        """
        _check_name("model", model, self._infers)
        self._infers[model].check(params)

    def check_training(self, model: str, params: dict[str, Any]) -> None:
        """Refuse a training before a process is started for it.

        Raises:
            NotFoundError: there is no such model.
            BadInputError: a value that can't be used, nothing to train on, or what the ledger shows to be hopeless.
        """
        _check_name("model to train", model, self._trainers)
        self._trainers[model].check(params)
        if not self.datastore().get_labeled_images():
            msg = "no image is labelled yet; submit at least one corrected segmentation before training"
            raise BadInputError(msg)
        if self.store is not None:
            check_ledger(self.store, self.settings, cache_folder=Path(self.app_dir) / "model" / "cache")

    def check_scoring(self, method: str) -> None:
        """Refuse a scoring before a process is started for it.

        Raises:
            NotFoundError: there is no such scoring method.
        """
        _check_name("scoring method", method, self._scoring_methods)

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment an image of the pool, an upload or a session's image.

        Raises:
            NotFoundError: there is no such model or image.
            BadInputError: the image is a path of this machine, or can't be used.
        """
        _check_name("model", request.get("model"), self._infers)
        request = {key: value for key, value in request.items() if key != "logging"}  # of the whole process
        image = request.get("image")
        if isinstance(image, str) and not self._was_sent(image, request):
            images = datastore or self.datastore()
            ours = isinstance(images, FolderDatastore)
            uri = str(images.image_path(image)) if ours else images.get_image_uri(image)  # the first says why not
            if not uri or not os.path.exists(uri):
                msg = f"there is no image {image[:80]!r}"
                raise NotFoundError(msg)
            if ours and images.store.segs is not None:
                images.store.segs.look_soon(image)
        sent = isinstance(image, str) and os.path.isabs(image)
        if sent and not request.get("session"):
            request = request | {"sent_once": True}
        with named_in_errors(str(image), "the image sent") if sent else self._noting_unreadable(image):
            if sent and os.path.isfile(str(image)):
                read_grid(str(image), self.settings.limits.of_files())  # of the studies nothing is too large
            result: dict[str, Any] = super().infer(request, datastore)
        self.metrics.inference_done((result.get("params") or {}).get("latencies") or {})
        if isinstance(image, str) and not sent and request.get("client_id"):
            self._keep_presegmentation(image, request, result)
        return result

    def prefetch(self, image_id: str, client: str) -> None:
        """Segment an image of the store before its annotator asks for that."""
        chosen = self.settings.inference
        if self.store is None or not (chosen.prefetch and chosen.cache_mb) or self.source.path_or_none is None:
            return
        try:
            path = self.datastore().get_image_uri(image_id)
        except LiverLoopError as error:
            logger.warning("the image %s is not segmented ahead: %s", image_id, error)
            return
        if path:
            self._infers[self.settings.model_name].shared.prefetch(path, client)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next image to label, `{}` when all are labelled.

        Raises:
            NotFoundError: there is no such strategy.
        """
        strategy = request.get("strategy") or next(iter(self._strategies))
        _check_name("strategy", strategy, self._strategies)
        return super().next_sample(request | {"strategy": strategy})

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Not for CT.

        Raises:
            NotFoundError: always.
        """
        msg = "this server segments CT and takes no whole-slide images; use /infer/"
        raise NotFoundError(msg)

    def on_init_complete(self) -> None:
        """Called once the server runs: install error answers and request checks on it."""
        from monailabel.app import app as server  # only now: it is still being imported when this class is loaded

        keep_private()
        begin_jobs(self.jobs, self.store.ledger if self.store else None)
        install_answers(server)
        install_origins(server)
        server.add_middleware(TrafficMiddleware, traffic=self.traffic)
        self.metrics.watch(self._state)
        if not self.stopping.install():
            logger.warning("the server is not run by uvicorn in its main thread: it stops without waiting for requests")
        install_endpoints(server, self)
        self.registry.follow()
        if self.store is not None:
            self.store.watch(self._found_in_pacs)
        warn_unless_guarded(server)
        super().on_init_complete()
        keep_private()  # a log of its own has what it runs every minute
        self.retraining.begin()
        self.scoring_when_idle.begin()
        self.source.get(choose_device())  # so that its engine is chosen before the first request
        logger.info("model in force: %s (%s)", self.source.version, self.source.path.name)

    def _end_jobs(self) -> Sequence[str]:
        self.retraining.end()
        self.scoring_when_idle.end()
        return end_jobs(self.jobs, self.store.ledger if self.store else None)

    def _state(self) -> State:
        """What `/metrics` tells of this moment."""
        try:
            self.check_ready()
        except LiverLoopError:
            ready = False
        else:
            ready = True
        figures = scored = None
        if self._figures is not None:
            with suppress(StorageError):
                figures, scored = self._figures.get(), self.scoring_when_idle.counts()
        return State(
            ready=ready,
            model=self.source.version if self.source.path_or_none else None,
            inference=self._infers[self.settings.model_name].shared.info(),
            requests=self.traffic.running().total(),
            jobs=running_jobs(),
            ledger=figures,
            scored=scored,
        )

    def _is_idle(self) -> bool:
        """Whether nobody waits for anything, and nothing else works in the background."""
        waiting = self._infers[self.settings.model_name].shared.info()["waiting"]
        return not (waiting or self.traffic.running() or any(running_jobs().values()) or self.stopping.has_begun)

    @contextmanager
    def _noting_unreadable(self, image: object) -> Iterator[None]:
        """Whoever asks for the next image is not given one that an inference could not read."""
        try:
            yield
        except BadInputError:
            if self.store is not None and isinstance(image, str):
                self.store.images.note_if_unreadable(image)
            raise

    def _keep_presegmentation(self, image_id: str, request: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep what the annotator starts from, to tell later what was corrected; a result goes out in any case."""
        path = result.get("file")
        if self.store is None or not path or request.get("planes"):
            return
        version = result["params"]["model_version"]
        try:
            self.store.labels.keep_presegmentation(image_id, str(request["client_id"]), version, path)
        except LiverLoopError as error:
            logger.warning("the pre-segmentation of %s is not kept: %s", image_id, error)

    def _was_sent(self, image: str, request: dict[str, Any]) -> bool:
        """Whether the image came with this request: a file that MONAI Label just stored, or a session's."""
        path = Path(image)
        if not path.is_absolute():
            return False
        if request.get("session"):
            return True
        in_temporary = path.parent == Path(tempfile.gettempdir()) and path.name.startswith(tempfile.gettempprefix())
        if in_temporary and path.exists():
            return True
        msg = f"{image[:80]!r} is a path of the server; name images by their id, or send the file"
        raise BadInputError(msg)


def _check_name(kind: str, name: object, known: Collection[str]) -> None:
    if name not in tuple(known):  # a client may send anything, unhashable things too
        msg = f"there is no {kind} {str(name)[:80]!r}; choose one of {', '.join(known)}"
        raise NotFoundError(msg)
