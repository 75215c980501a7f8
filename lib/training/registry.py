"""Every model that was ever made, as a version in the app's folder; one of them is the one that annotators get.

`model/versions/<id>/` holds a version's weights and manifest, `model/versions/publications.jsonl` a line for each time
that one was published. The folder is the truth; a ledger, where there is one, gets an index of it.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.errors import BadInputError, ModelError, NotFoundError, StorageError
from lib.files import atomic_write, file_sha256, remembered_sha256
from lib.inference.model import ModelSource, load_model, version_of
from lib.inference.version_folder import VERSION_ID
from lib.networks.checkpoint import read_meta, save_weights
from lib.settings import Settings
from lib.store import models
from lib.store.ledger import Ledger
from lib.store.models import IndexedModel, Published

logger = logging.getLogger(__name__)

STARTER = "starter"
PUBLISHED = "published"
SCRATCH = "scratch"
VALIDATION_DICE = "validation Dice"
_WEIGHTS, _MANIFEST, _PUBLICATIONS = "model.pt", "manifest.json", "publications.jsonl"
REPORT_FILE = "report.html"  # in the folder of a run, and in that of its version
_RESERVED = {STARTER, PUBLISHED, SCRATCH, "compare"}
_NAMED = 10  # versions that a message lists


@dataclass(frozen=True)
class ModelVersion:
    """Weights and what is known of them.

    Args:
        id: the version, as inference reports it.
        weights: their file.
        manifest: see `lib.training.publish.describe`; of the starter what its file says.
        sha256: of the weights file, as it was when the version was made.
        is_starter: they came with the app.
        is_published: annotators get them now.
        publication: the last time they were published, None if never.
    """

    id: str
    weights: Path
    manifest: Mapping[str, Any]
    sha256: str
    is_starter: bool = False
    is_published: bool = False
    publication: Published | None = None

    @property
    def made_at(self) -> datetime:
        """When; the time of the file where the manifest doesn't say."""
        try:
            made = datetime.fromisoformat(str(self.manifest.get("created")))
        except ValueError:
            return datetime.fromtimestamp(self.weights.stat().st_mtime, UTC)
        return made if made.tzinfo else made.replace(tzinfo=UTC)

    @property
    def reason(self) -> str | None:
        """Why it was published the last time, or why it was not."""
        return self.publication.reason if self.publication else self.manifest.get("reason")

    @property
    def report(self) -> Path | None:
        """The page of its training, see `lib.training.report`; None where there is none."""
        path = self.weights.with_name(REPORT_FILE)
        return path if not self.is_starter and path.is_file() else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without paths and without the manifest."""
        publication = self.publication
        return {
            "id": self.id,
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "parent": self.manifest.get("parent"),
            "is_starter": self.is_starter,
            "is_published": self.is_published,
            "published_at": _iso(publication.at) if publication else None,
            "published_by": publication.by if publication else None,
            "reason": self.reason,
            "sha256": self.sha256,
            "has_report": self.report is not None,
            "metrics": figures_of(self.manifest),
        }


class Registry:
    """The model versions of an app folder.

    Args:
        app_folder: with `app.yaml`, `starter.pt` and `model/`.
        settings: what weights must fit to be published.
        ledger: gets an index and the events; None: the folder alone.
    """

    def __init__(self, app_folder: str | Path, settings: Settings, ledger: Ledger | None = None) -> None:
        self.settings = settings
        self.source = ModelSource.of_app(settings, app_folder)
        self.folder = self.source.published.parent / "versions"
        self._ledger = ledger

    def add(self, weights: nn.Module | Path, manifest: Mapping[str, Any]) -> str:
        """Keep weights as a version.

        Args:
            weights: the network, or a file that is copied as it is.
            manifest: its `version` becomes the id; see `lib.training.publish.describe`.

        Returns:
            The version's id.

        Raises:
            BadInputError: the id can't be used or is in use.
            StorageError: the disk refused the write.
        """
        version = str(manifest.get("version") or "")
        if not VERSION_ID.fullmatch(version) or version in _RESERVED:
            msg = f"{version[:80]!r} can't name a model version; use letters, digits and any of _ . : -"
            raise BadInputError(msg)
        folder = self.folder / version.replace(":", "-")
        if (folder / _MANIFEST).exists():
            msg = f"there is a model version {version!r} already; give the new one another name"
            raise BadInputError(msg)
        if isinstance(weights, nn.Module):
            save_weights(folder / _WEIGHTS, weights, manifest)
        else:
            _copy(weights, folder / _WEIGHTS)
        # Last: a folder without a manifest is no version, such as one whose making was interrupted.
        _write_json(folder / _MANIFEST, {**manifest, "sha256": file_sha256(folder / _WEIGHTS)})
        self.follow()
        return version

    def keep_report(self, version_id: str, page: Path) -> None:
        """Keep the page of its training with a version; one that can't be kept is logged, as the model is what counts.

        Args:
            version_id: which.
            page: an HTML file that needs no other.
        """
        try:
            _copy(page, self.get(version_id).weights.with_name(REPORT_FILE))
        except (OSError, NotFoundError) as error:
            logger.warning("the model version %s has no report: %s", version_id, error)

    def list(self) -> Sequence[ModelVersion]:
        """All versions, the newest first, the starter last."""
        in_force = self.source.path_or_none
        published = remembered_sha256(in_force) if in_force else None
        last = {publication.id: publication for publication in self._publications()}
        kept = sorted(self._kept(), key=lambda version: (version.made_at, version.id), reverse=True)
        return [
            ModelVersion(
                id=version.id,
                weights=version.weights,
                manifest=version.manifest,
                sha256=version.sha256,
                is_starter=version.is_starter,
                is_published=version.sha256 == published,
                publication=last.get(version.id),
            )
            for version in (*kept, *self._starter())
        ]

    def get(self, version_id: str) -> ModelVersion:
        """One version by its id; "starter" and "published" are understood, too.

        Raises:
            NotFoundError: there is no such version.
        """
        versions = self.list()
        for version in versions:
            goes_by = {version.id: True, STARTER: version.is_starter, PUBLISHED: version.is_published}
            if goes_by.get(version_id):
                return version
        names = [version.id for version in versions if not version.is_starter]
        shown = [*names[:_NAMED], *(["..."] if len(names) > _NAMED else []), *(STARTER for _ in self._starter())]
        known = f"choose one of {', '.join(shown)}" if shown else "there is none yet"
        msg = f"there is no model version {str(version_id)[:80]!r}; {known}"
        raise NotFoundError(msg)

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Two versions' figures side by side, and what else their manifests tell differently.

        Raises:
            NotFoundError: there is no such version.
        """
        versions = [self.get(name) for name in (first, second)]
        figures = [figures_of(version.manifest) for version in versions]
        manifests = [version.manifest for version in versions]
        cases = [_judged_on(manifest) for manifest in manifests]
        told = ("parent", "labels", "channels", "windows", "network", "recipe", "software")
        return {
            "first": versions[0].id,
            "second": versions[1].id,
            "figures": {name: [side.get(name) for side in figures] for name in {**figures[0], **figures[1]}},
            "same_validation_cases": bool(cases[0]) and cases[0] == cases[1],
            "different": {
                key: [manifest.get(key) for manifest in manifests]
                for key in told
                if manifests[0].get(key) != manifests[1].get(key)
            },
        }

    def check(self, version: ModelVersion) -> None:
        """Make sure that a version's weights are what they were and fit `app.yaml`.

        Raises:
            ModelError: the file is damaged.
            BadInputError: it was made for other labels, channels, windows or another network.
        """
        if not version.weights.is_file() or file_sha256(version.weights) != version.sha256:
            msg = f"the weights of the model version {version.id} are damaged or missing; choose another version"
            raise ModelError(msg)
        network = version.manifest.get("network")
        ours = self.settings.network.model_dump()
        if isinstance(network, Mapping) and _structure(network) != _structure(ours):
            msg = f"the model version {version.id} was made for the network {network}, but app.yaml says {ours}"
            raise BadInputError(msg)
        try:
            load_model(self.settings, version.weights, torch.device("cpu"))
        except ModelError as error:
            msg = f"the model version {version.id} does not fit app.yaml: {error}".replace(
                str(version.weights), version.weights.name
            )
            raise BadInputError(msg) from error

    def publish(self, version_id: str, by: str, reason: str) -> ModelVersion:
        """Give a version to annotators, atomically: a running server takes it for the next request.

        To go back is to publish an older one.

        Args:
            version_id: which.
            by: who wants that.
            reason: why, for those who come after.

        Returns:
            The version, published.

        Raises:
            NotFoundError: there is no such version.
            BadInputError: it is published already or does not fit `app.yaml`.
            ModelError: its weights are damaged.
            StorageError: the disk refused the write.
        """
        version = self.get(version_id)
        if version.is_published:
            msg = f"the model version {version.id} is the published one already"
            raise BadInputError(msg)
        self.check(version)
        self._keep_published()
        _copy(version.weights, self.source.published)
        publication = Published(version.id, datetime.now(UTC).timestamp(), by, reason)
        told = {"at": _iso(publication.at), "by": by, "reason": reason}
        _write_json(self.source.published.with_suffix(".json"), {**version.manifest, "published": told})
        self._note(publication)
        logger.info("model %s published by %s: %s", version.id, by, reason)
        self.follow()
        return self.get(version.id)

    def start_weights(self, start: str) -> Path | None:
        """The weights that a training shall start from; None for fresh ones.

        Args:
            start: "published" (the model in force), "scratch", "starter" or the id of a version.

        Raises:
            NotFoundError: there is no such version.
            ModelError: there is no model in force, or the version's weights are damaged.
            BadInputError: the version does not fit `app.yaml`.
        """
        if start == SCRATCH:
            return None
        if start == PUBLISHED:
            return self.source.path
        version = self.get(start)
        self.check(version)
        return version.weights

    def refresh(self) -> None:
        """Keep a published model that is no version yet as one, and bring the ledger's index in line with the folder.

        Raises:
            StorageError: the ledger can't be written.
        """
        self._keep_published()
        if self._ledger is None:
            return
        found = [_indexed(version) for version in self.list()]
        with self._ledger.writing() as connection:
            models.follow(connection, found, self._publications())

    def follow(self) -> None:
        """Refresh; a ledger that can't be written now gets to know at the next time, as the folder is the truth."""
        try:
            self.refresh()
        except StorageError as error:
            logger.warning("the ledger does not know yet of the newest model versions: %s", error)

    def _keep_published(self) -> None:
        """Weights that came into force without the registry would be lost when others are published."""
        published = self.source.published
        if not published.is_file():
            return
        sha256 = remembered_sha256(published)
        versions = [*self._kept(), *self._starter()]
        if any(version.sha256 == sha256 for version in versions):
            return
        try:
            meta = read_meta(published)
        except ModelError as error:
            logger.warning("the published model is not kept as a version: %s", error)
            return
        name = version_of(published, meta)
        if not VERSION_ID.fullmatch(name) or name in {*_RESERVED, *(version.id for version in versions)}:
            name = f"sha256:{sha256[:12]}"
        folder = self.folder / name.replace(":", "-")
        _copy(published, folder / _WEIGHTS)
        _write_json(folder / _MANIFEST, {**meta, "version": name, "sha256": file_sha256(folder / _WEIGHTS)})

    def _kept(self) -> Iterator[ModelVersion]:
        for path in sorted(self.folder.glob(f"*/{_MANIFEST}")):
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
                version = ModelVersion(
                    str(manifest["version"]), path.with_name(_WEIGHTS), manifest, str(manifest["sha256"])
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s can't be read and its version is left out: %s", path, error)
                continue
            yield version

    def _starter(self) -> Iterator[ModelVersion]:
        path = self.source.starter
        if not path.is_file():
            return
        try:
            meta = _meta_of(path)
        except ModelError as error:
            logger.warning("the starter weights are left out: %s", error)
            return
        yield ModelVersion(version_of(path, meta), path, meta, remembered_sha256(path), is_starter=True)

    def _publications(self) -> Sequence[Published]:
        path = self.folder / _PUBLICATIONS
        if not path.is_file():
            return ()
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(Published(**json.loads(line)))
            except (ValueError, TypeError):
                logger.warning("%s: a line can't be read and is left out", path)
        return found

    def _note(self, publication: Published) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _PUBLICATIONS
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        with atomic_write(path) as temporary:
            temporary.write_text(f"{before}{json.dumps(vars(publication))}\n", encoding="utf-8")


def figures_of(manifest: Mapping[str, Any]) -> dict[str, float | int | None]:
    """What a manifest tells of how good a version is, by name; only what it holds.

    The Dice of the classes is that of whole cases that the model had not learned from, measured before the version
    could be published: from the comparison, else from the cross-validation. The validation Dice is that of single
    slices in training.
    """
    gate = manifest.get("gate") or {}
    crossed = (manifest.get("cross_validation") or {}).get("classes") or {}
    dice = {name: paired["candidate"] for name, paired in (gate.get("classes") or {}).items()}
    dice = dice or {name: found["mean"] for name, found in crossed.items()}
    lesions = (gate.get("lesions") or {}).get("candidate") or {}
    figures = {
        "training cases": _count(manifest.get("training_cases")),
        "validation cases": _count(manifest.get("validation_cases")),
        "best epoch": manifest.get("best_epoch"),
        VALIDATION_DICE: manifest.get("validation_dice"),
        **{f"{name} Dice": value for name, value in dice.items()},
        "lesions found": lesions.get("found"),
        "lesions labelled": lesions.get("reference"),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _judged_on(manifest: Mapping[str, Any]) -> list[str] | None:
    """The cases that the figures of a version are of."""
    for key in ("gate", "cross_validation"):
        if names := (manifest.get(key) or {}).get("cases"):
            return sorted(names)
    return manifest.get("validation_cases")


def _count(names: object) -> int | None:
    return len(names) if isinstance(names, list | tuple) else None


def _meta_of(path: Path) -> dict[str, Any]:
    """Versions are listed at every request for the server's state; weights files are only ever replaced as a whole."""
    status = path.stat()
    return _read_once(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read_once(path: Path, *_: int) -> dict[str, Any]:
    return read_meta(path)


def _structure(network: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What decides a network's results; dropout does so only while it is trained."""
    arguments = network.get("arguments") or {}
    return network.get("name"), {key: value for key, value in arguments.items() if "dropout" not in key}


def _indexed(version: ModelVersion) -> IndexedModel:
    publication = version.publication
    return IndexedModel(
        id=version.id,
        made_at=version.made_at.timestamp(),
        parent=version.manifest.get("parent"),
        published_at=publication.at if publication else None,
        published_by=publication.by if publication else None,
        reason=version.reason,
        sha256=version.sha256,
        metrics=figures_of(version.manifest),
    )


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
