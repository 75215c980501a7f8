from PIL import Image

from lib.simulation.kinds import Grid
from lib.simulation.pool_picture import draw_kinds_picture


def test_the_picture_shows_each_kind_with_its_outlines(tmp_path):
    path = tmp_path / "kinds.png"
    draw_kinds_picture(path, examples=1, grid=Grid(size=32, slices=4, slice_mm=50.0))
    picture = Image.open(path)
    assert picture.format == "PNG"
    width, height = picture.size
    pixels = picture.convert("RGB")
    for column in range(6):
        part = pixels.crop((column * width // 6, 0, (column + 1) * width // 6, height))
        colors = [color for _, color in part.getcolors(part.width * part.height)]
        assert any(red - blue > 80 for red, _, blue in colors)  # the liver's outline
