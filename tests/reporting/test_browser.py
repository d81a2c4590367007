"""A report in a real browser: its tables and pictures are drawn, and it fits its window."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars",),
)
MEASURE = """<script>
const size = one => { const box = one.getBoundingClientRect(); return [box.width, box.height]; };
document.body.dataset.found = JSON.stringify({
  images: [...document.images].map(one => [one.naturalWidth, one.naturalHeight]),
  pictures: [...document.querySelectorAll("figure > svg")].map(size),
  rows: document.querySelectorAll("tbody tr").length,
  needs: document.documentElement.scrollWidth, has: window.innerWidth,
  requests: performance.getEntriesByType("resource").filter(
    one => !one.name.startsWith("data:")).length,
});
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")


def browse(folder, *arguments):
    own = f"--user-data-dir={folder / 'user'}"
    done = subprocess.run(
        [BROWSER, *QUIET, own, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [1200, 500])
def test_page_is_drawn_and_fits(width, made, tmp_path):
    source = made.html.read_text("utf-8")
    copy = tmp_path / "copy.html"
    copy.write_text(source.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    dom = browse(tmp_path, f"--window-size={width},900", "--dump-dom", copy.as_uri())
    found = json.loads(re.search(r'data-found="([^"]+)"', dom)[1].replace("&quot;", '"'))
    assert found["rows"] == 4
    assert len(found["images"]) == source.count("<img") > 5
    assert set(map(tuple, found["images"])) == {(112, 112)}
    assert len(found["pictures"]) == source.count('<figure class="card"><figcaption') > 14
    assert np.min(found["pictures"]) > 30
    assert found["requests"] == 0
    assert found["needs"] <= found["has"] == width


def test_screenshots_show_something_in_light_and_in_dark(made, tmp_path):
    image = pytest.importorskip("PIL.Image")
    shown = {}
    for look, setting in (("light", 1), ("dark", 0)):
        path = tmp_path / f"{look}.png"
        browse(
            tmp_path,
            f"--screenshot={path}",
            "--window-size=1200,900",
            f"--blink-settings=preferredColorScheme={setting}",
            made.html.as_uri(),
        )
        picture = image.open(path).convert("RGB")
        assert len(picture.getcolors(1 << 20)) > 100
        shown[look] = np.asarray(picture, "float32")
    for pixels in shown.values():
        assert pixels.shape == (900, 1200, 3)
        rows = pixels.std(axis=(1, 2)) > 1
        assert rows.mean() > 0.5
    assert shown["light"].mean() > 200
    assert shown["dark"].mean() < 60
