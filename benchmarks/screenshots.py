"""Pictures of the report for the docs, taken in headless Chromium, and a check that nothing on it runs into something else.

    python benchmarks/screenshots.py            docs/pictures/*: the report of the last run, wide and narrow, light and dark; lineage
    python benchmarks/screenshots.py --check    only look: exit code 1 if texts overlap, the page is wider than the screen, or the
                                                console has a complaint
    python benchmarks/screenshots.py --whole F  the whole pages to the folder F, to be looked at

Wants the program chromium (Debian, Ubuntu: apt-get install chromium). A narrow page is shown in a frame: a window has a least width.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import html
import json
import re
import shutil
import subprocess
import tempfile

REPORT = ROOT / "artifacts/report/index.html"
PICTURES = ROOT / "docs/pictures"
WIDTHS = (1280, 400)
SCHEMES = {"light": 1, "dark": 0}  # the numbers are Chromium's preferredColorScheme
# Every text of the page in the frame: those of a drawing that overlap or leave it, and what is wider than the frame.
LOOK = """
const page = document.querySelector("iframe").contentDocument, frame = page.defaultView, found = [];
page.querySelectorAll("details").forEach(d => d.open = true);
if (page.documentElement.scrollWidth > frame.innerWidth) {
  const wide = [...page.querySelectorAll("main *")].filter(
    e => e.getBoundingClientRect().right > frame.innerWidth + 1 && !e.closest(".scroll"));
  found.push(`the page is ${page.documentElement.scrollWidth} wide: ${wide.slice(0, 3).map(e => e.outerHTML.slice(0, 80)).join(" | ")}`);
}
page.querySelectorAll("svg").forEach(svg => {
  const outer = svg.getBoundingClientRect(), name = svg.querySelector("title").textContent.slice(0, 40);
  const texts = [...svg.querySelectorAll("text")].map(t => [t.lastChild, t.getBoundingClientRect(),
    /rotate/.test(t.getAttribute("transform"))]).filter(([t]) => t);
  texts.forEach(([t, a, turned], i) => {
    if (a.left < outer.left - 1 || a.right > outer.right + 1 || a.top < outer.top - 1 || a.bottom > outer.bottom + 1)
      found.push(`${name}: "${t.textContent}" leaves the drawing`);
    texts.slice(i + 1).forEach(([u, b, other]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 0.3 * Math.min(a.height, b.height) && !(turned && other))
        found.push(`${name}: "${t.textContent}" and "${u.textContent}" overlap`);
    });
  });
});
document.title = "looked";
document.body.textContent = "<<" + JSON.stringify(found) + ">>";
"""


def chromium(*options: str, timeout: float = 90.0) -> subprocess.CompletedProcess:
    program = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if program is None:
        sys.exit("chromium is not installed; install it with: apt-get install chromium (Debian, Ubuntu)")
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                "--v=0",
                f"--user-data-dir={profile}",
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def complaints(done: subprocess.CompletedProcess) -> list[str]:
    """What the console said."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def framed(page: Path, folder: Path, width: int, height: int) -> Path:
    """A page that shows `page` in a frame of this size."""
    outer = folder / f"frame-{width}.html"
    outer.write_text(
        f"<!DOCTYPE html><style>body{{margin:0;background:#888}}iframe{{border:0;display:block;width:{width}px;height:{height}px}}"
        f'</style><iframe src="{html.escape(page.as_uri())}"></iframe>'
    )
    return outer


def look(page: Path) -> list[str]:
    """Everything that is wrong with how a page lies on the screen, at each width."""
    found = complaints(chromium("--dump-dom", page.as_uri()))
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))  # the frame inherits nothing
    with tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS:
            outer = Path(folder) / "look.html"
            outer.write_text(
                f'<!DOCTYPE html><meta charset="utf-8"><body><iframe style="border:0;width:{width}px;height:4000px" '
                f'srcdoc="{html.escape(text)}"></iframe>'
                f"<script>onload = () => {{ {LOOK} }}</script>",
                encoding="utf-8",
            )
            done = chromium("--window-size=1400,4000", "--virtual-time-budget=5000", "--dump-dom", outer.as_uri())
            if "<title>looked</title>" not in done.stdout:
                sys.exit(f"chromium did not show {page}:\n{done.stderr[-2000:]}")
            said = html.unescape(re.search(r"<body>&lt;&lt;(.*)&gt;&gt;", done.stdout, re.DOTALL)[1])
            found += [f"{width} px: {sentence}" for sentence in json.loads(said)]
    return found


BARS = 200  # pixels of a window that newer versions of Chromium count and do not draw on; cut off below


def picture(page: Path, path: Path, *, width: int, height: int, scheme: str, colours: int = 256) -> None:
    """A PNG of the top of a page, in few colours: small enough for a repository."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as name:
        shown = page if width >= 600 else framed(page, Path(name), width, height)
        raw = Path(name) / "raw.png"
        chromium(
            f"--window-size={max(width, 600)},{height + BARS}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--screenshot={raw}",
            shown.as_uri(),
        )
        if not raw.exists():
            sys.exit(f"chromium made no picture of {page}; does it start by itself? try: chromium --version")
        image = Image.open(raw).convert("RGB").crop((0, 0, width, height))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only look for what overlaps or is too wide")
    parser.add_argument("--whole", type=Path, metavar="FOLDER", help="pictures of the whole page into this folder")
    parser.add_argument("--page", type=Path, default=REPORT, help="the page (default: the report of the last run)")
    arguments = parser.parse_args()
    page = arguments.page.resolve()
    if not page.exists():
        sys.exit(f"{page} is missing; run: dvc repro")
    if arguments.check:
        found = look(page)
        print("\n".join(found) or f"{page}: nothing overlaps, nothing is too wide, the console is silent")
        sys.exit(bool(found))
    for width in WIDTHS:
        for scheme in SCHEMES:
            if arguments.whole:
                picture(
                    page,
                    arguments.whole / f"{page.stem}-{width}-{scheme}.png",
                    width=width,
                    height=6400 if width > 600 else 12000,
                    scheme=scheme,
                )
            else:
                picture(page, PICTURES / f"report-{width}-{scheme}.png", width=width, height=860 if width > 600 else 800, scheme=scheme)
    if not arguments.whole:
        shutil.copyfile(REPORT.parent / "lineage.svg", PICTURES / "lineage.svg")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/screenshots.py"):
        main()
