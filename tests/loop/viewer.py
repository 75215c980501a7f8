"""OHIF in a browser, driven as an annotator does, and what is on its screen."""

import base64
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from lib.volume import Volume

_PATIENCE_MS = 120_000
PANEL = "1"  # the segmentation that MONAI Label's panel makes

# The slices of a segmentation with the place of the image under each.
_SLICES = """(id) => {
  const { cache, metaData } = window.cornerstone;
  const { Labelmap } = window.cornerstoneTools.segmentation.state.getSegmentation(id).representationData;
  return Labelmap.imageIds.map((imageId) => {
    const image = cache.getImage(imageId);
    const plane = metaData.get('instance', image.referencedImageId);
    const voxels = Uint8Array.from(image.voxelManager.getScalarData());
    let text = '';
    for (let at = 0; at < voxels.length; at += 8192) {
      text += String.fromCharCode.apply(null, voxels.subarray(at, at + 8192));
    }
    return {
      position: Array.from(plane.ImagePositionPatient, Number),
      orientation: Array.from(plane.ImageOrientationPatient, Number),
      spacing: Array.from(plane.PixelSpacing, Number),
      shape: [plane.Rows, plane.Columns],
      voxels: btoa(text),
    };
  });
}"""
_SEGMENTATIONS = """() => {
  const { segmentation } = window.cornerstoneTools;
  return segmentation.state.getSegmentations().map(({ segmentationId: id, label, segments }) => ({
    id,
    label,
    segments: Object.fromEntries(Object.values(segments).filter(Boolean).map((one) => [
      one.label,
      [one.segmentIndex, segmentation.state.getViewportIdsWithSegmentation(id).map((viewportId) =>
        Array.from(segmentation.config.color.getSegmentIndexColor(viewportId, id, one.segmentIndex)).slice(0, 3))],
    ])),
  }));
}"""
_CLEAR = """(id) => {
  const { voxelManager } = window.services.segmentationService.getLabelmapVolume(id);
  voxelManager.setCompleteScalarDataArray(new Uint8Array(voxelManager.getCompleteScalarDataArray().length));
}"""
# What the viewer says of storing, from now on; how often it has.
_LISTEN = """() => {
  const service = window.services.uiNotificationService;
  if (!window.told) {
    window.told = [];
    const show = service.show.bind(service);
    service.show = (options) => {
      window.told.push(options.message);
      return show(options);
    };
  }
  return window.told.filter((message) => message.startsWith('The segmentation is')).length;
}"""
_TOLD = "() => window.told.filter((message) => message.startsWith('The segmentation is'))"
# Where a point (mm, LPS) lies on the screen; and the plane that a viewport shows.
_ON_SCREEN = """([viewportId, point]) => {
  const viewport = window.cornerstone.getRenderingEngines()[0].getViewport(viewportId);
  const { left, top } = viewport.element.getBoundingClientRect();
  const [x, y] = viewport.worldToCanvas(point);
  return [left + x, top + y];
}"""
_FOCUS = """(viewportId) => Array.from(
  window.cornerstone.getRenderingEngines()[0].getViewport(viewportId).getCamera().focalPoint)"""


class Shown(NamedTuple):
    """A segment on the screen: its number, and its color (red, green, blue) in each viewport."""

    number: int
    colors: list[list[int]]


class Viewer:
    """A tab with the viewer of one server.

    Args:
        browser: runs it.
        url: of the server.
        pictures: folder for screenshots, which is there.
    """

    def __init__(self, browser: Browser, url: str, pictures: Path) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1600, "height": 1000})
        self.page.set_default_timeout(_PATIENCE_MS)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())  # "this will reload the page"
        self._url, self._pictures, self._noticed = url, pictures, False

    def open_studies(self) -> None:
        """The list of studies, once it is there."""
        self.page.goto(f"{self._url}/ohif/")
        self.page.get_by_text("Study List").wait_for()
        notice = self.page.get_by_role("button", name="Confirm and Hide")  # "for investigational use only"
        if not self._noticed:
            notice.click()
            self._noticed = True

    def log_in(self, name: str, password: str) -> None:
        """Fill in the login page and send it."""
        self.page.get_by_label("User name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()

    def open_study(self, patient_id: str, mode: str) -> None:
        """From the list of studies into a mode, such as `MONAI Label`."""
        self.study_of(patient_id).click()
        self.page.get_by_role("link", name=mode).click()
        self.wait_for_images()

    def study_of(self, patient_id: str) -> Locator:
        """A patient's line in the list of studies."""
        return self.page.get_by_text(patient_id, exact=True).first

    def wait_for_images(self) -> None:
        """Wait until the viewports show something."""
        self.page.locator("[data-cy=viewport-overlay-bottom-right]", has_text=re.compile(r"\d+/\d+")).first.wait_for()

    def connect(self) -> None:
        """Press the button of MONAI Label's panel and wait until it knows the server."""
        self.page.locator(".settingsTable button.actionButton").click()
        self.page.get_by_text("Auto-Segmentation", exact=True).wait_for()
        self.wait_until(lambda: self.segments(PANEL), "the segments of the panel")

    def next_sample(self) -> dict[str, str]:
        """What the panel tells of the next sample, by the names it gives them."""
        self.open_section("Active Learning")
        self.page.get_by_role("button", name="Next Sample").click()
        rows = self.page.locator(".nextSampleForm tbody tr")
        rows.first.wait_for()
        return dict(tuple(row.locator("td").all_inner_texts()) for row in rows.all())

    def segment(self) -> None:
        """Run the automatic segmentation and wait until it is on the screen."""
        self.open_section("Auto-Segmentation")
        self._infer(self.page.locator("button[title='Run Segmentation']"))

    def segment_classes(self, *names: str) -> None:
        """Run the segmentation of some classes only."""
        self.open_section("Class Prompts")
        section = self._section("Class Prompts")
        for box in section.locator("input[type=checkbox]:not(.tab-switch)").all():
            row = box.locator("xpath=ancestor::tr[1]")
            box.set_checked(row.inner_text().strip() in names)
        self._infer(section.locator("button.actionButton", has_text="Run"))

    def open_section(self, title: str) -> None:
        """Unfold a part of MONAI Label's panel unless it is open."""
        section = self._section(title)
        if not section.locator("input.tab-switch").is_checked():
            section.locator("label.tab-label").click()

    def _infer(self, button: Locator) -> None:
        """From an empty segmentation, so that its voxels tell when the answer has come."""
        self.page.evaluate(_CLEAR, PANEL)
        with self.page.expect_response(lambda response: "/infer/" in response.url) as answer:
            button.click()
        assert answer.value.status == 200, answer.value.text()
        self.wait_until(lambda: self.label(PANEL).array.any(), "voxels of the segmentation")

    def _section(self, title: str) -> Locator:
        return self.page.locator(".tab", has=self.page.get_by_text(title, exact=True))

    def open_segmentations(self) -> None:
        """Show the panel with brushes and segments."""
        self.page.locator("[data-cy=panelSegmentationWithTools-btn]").click()

    def paint(self, segment: str, at: tuple[float, float, float]) -> None:
        """A dab of the brush into the axial image at a point in mm (LPS)."""
        self.page.get_by_text(segment, exact=True).first.click()
        self.page.locator("[data-cy=Brush]").click()
        x, y = self.on_screen("mpr-axial", at)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 3, y + 3, steps=3)
        self.page.mouse.up()

    def store(self, description: str) -> str:
        """Export the chosen segmentation to the PACS; what the viewer says to that."""
        panel = self.page.get_by_text("Appearance Settings").locator(
            "xpath=ancestor::*[.//*[@aria-haspopup='menu']][1]"
        )
        panel.locator("button[aria-haspopup='menu']").first.click()
        self.page.get_by_text("Export & Download").hover()
        self.page.get_by_text("Export DICOM SEG").click()
        self.page.locator("xpath=//*[text()='Enter the report name']/following::input[1]").fill(description)
        before = self.page.evaluate(_LISTEN)
        self.page.get_by_role("button", name="Save").click()
        told = self.wait_until(lambda: self.page.evaluate(_TOLD)[before:], "a word on storing")[0]
        self.page.get_by_text(told).first.wait_for()
        return str(told)

    def open_seg(self, description: str) -> str:
        """Open a SEG that the PACS has; the segmentation's id."""
        self.page.get_by_text(description, exact=True).first.dblclick()
        self.page.get_by_role("button", name="Yes").click()  # "Do you want to open this Segmentation?"
        found = self.wait_until(
            lambda: [one for one in self.segmentations() if one["label"] == description], description
        )
        self.wait_for_images()
        return str(found[0]["id"])

    def segmentations(self) -> list[dict[str, Any]]:
        """What the viewer holds."""
        return list(self.page.evaluate(_SEGMENTATIONS))

    def segments(self, segmentation_id: str) -> dict[str, Shown]:
        """The segments of a segmentation that is shown, by their names."""
        for one in self.segmentations():
            if one["id"] == segmentation_id:
                return {name: Shown(*found) for name, found in one["segments"].items()}
        return {}

    def label(self, segmentation_id: str) -> Volume:
        """The voxels of a segmentation, `(X, Y, Z)` along rows, columns and slices."""
        slices = self.page.evaluate(_SLICES, segmentation_id)
        across, down = (np.array(slices[0]["orientation"][part]) for part in (slice(0, 3), slice(3, 6)))
        slices.sort(key=lambda one: float(np.cross(across, down) @ one["position"]))
        planes = [np.frombuffer(base64.b64decode(one["voxels"]), np.uint8).reshape(one["shape"]) for one in slices]
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = across * slices[0]["spacing"][1], down * slices[0]["spacing"][0]
        affine[:3, 2] = (np.array(slices[-1]["position"]) - slices[0]["position"]) / (len(slices) - 1)
        affine[:3, 3] = slices[0]["position"]
        return Volume(np.stack(planes).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)

    def viewports(self) -> list[str]:
        """The ids of what is shown beside each other."""
        return list(self.page.evaluate("() => [...window.services.viewportGridService.getState().viewports.keys()]"))

    def focus(self, viewport: str) -> NDArray[np.float64]:
        """A point in mm (LPS) of the plane that a viewport shows."""
        return np.array(self.page.evaluate(_FOCUS, viewport))

    def on_screen(self, viewport: str, point: tuple[float, float, float]) -> tuple[float, float]:
        """Where in the window a point in mm (LPS) is."""
        x, y = self.page.evaluate(_ON_SCREEN, [viewport, [float(value) for value in point]])
        return x, y

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Take a screenshot and keep it; `(rows, columns, 3)`."""
        content = self.page.screenshot(path=self._pictures / f"{name}.png")
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """The condition's first true result; the browser goes on meanwhile."""
        end = time.monotonic() + _PATIENCE_MS / 1000
        while time.monotonic() < end:
            if result := condition():
                return result
            self.page.wait_for_timeout(100)
        msg = f"waited in vain for {what}"
        raise TimeoutError(msg)
