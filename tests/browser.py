"""A page measured in headless Chromium: its layout at several widths, the contrast of its text, what the keyboard reaches, its filter."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (390, 820, 1400)
SECONDS = 180  # on a machine that does other things, too

# Runs in a page around the measured ones, which allow no script of their own. WCAG 2.1: relative luminance, contrast.
_MEASURE = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
function behind(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const c = parse(view.getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
}
// What the keyboard should reach and does not, or without a ring around it (of a radio button: around its label).
function unreached(page, view) {
  const wanted = [...page.querySelectorAll('a[href], summary, input, [tabindex="0"]')];
  const lost = wanted.filter(e => {
    e.focus();
    const ring = view.getComputedStyle(e.tagName === 'INPUT' ? e.labels[0] : e);
    return page.activeElement !== e || ring.outlineStyle === 'none' || parseFloat(ring.outlineWidth) < 2;
  });
  page.activeElement.blur();
  return [wanted.length, lost.map(e => e.outerHTML.slice(0, 80))];
}
// For each choice of the filter: its class, the photos to be seen, and those of them without it in their legend.
function filtered(page, view) {
  const found = [...page.querySelectorAll('.filter input')].map(input => {
    input.checked = true;
    const seen = [...page.querySelectorAll('.strip')].filter(e => e.offsetParent !== null);
    const name = input.labels[0].textContent.trim();
    const wrong = seen.filter(e => ![...e.querySelectorAll('.name')].some(n => n.textContent.trim() === name));
    const lacking = [...page.querySelectorAll('.strip')].filter(e => e.classList.contains('has-' + input.id.slice(5)) && !seen.includes(e));
    return [name, seen.length, wrong.length, lacking.length];
  });
  const first = page.querySelector('.filter input');
  if (first) first.checked = true;
  return found;
}
function measure(frame) {
  const view = frame.contentWindow, page = view.document;
  const closed = page.querySelectorAll('details').length;
  page.querySelectorAll('details').forEach(e => { e.open = true; });
  const [reached, lost] = unreached(page, view);
  const silent = [...page.images].filter(e => !(e.alt || '').trim()).length + [...page.querySelectorAll('svg:not([aria-label])')].length;
  const texts = [], walker = page.createTreeWalker(page.body, view.NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = view.getComputedStyle(element);
    if (!walker.currentNode.data.trim() || element.tagName === 'STYLE') continue;
    const colour = parse(element.closest('svg') && element.tagName !== 'svg' ? style.fill : style.color);
    texts.push([ratio(colour, behind(element, view)), walker.currentNode.data.trim().slice(0, 40)]);
  }
  texts.sort((a, b) => a[0] - b[0]);
  const wide = page.documentElement.clientWidth;
  const all = [...page.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav ul, svg, .skip'));
  const out = all.filter(e => e.getBoundingClientRect().right > wide + 0.5);
  const broken = [...page.images].filter(i => i.complete && !i.naturalWidth).length;
  return {
    width: view.innerWidth, scroll: page.documentElement.scrollWidth, texts: texts.length, least: texts[0], closed, reached, lost,
    broken, silent,
    filter: filtered(page, view),
    out: out.slice(0, 3).map(e => e.outerHTML.slice(0, 80)), dark: view.matchMedia('(prefers-color-scheme: dark)').matches,
  };
}
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(measure);
  document.getElementById('result').textContent = JSON.stringify(found);
});
"""


def find_chromium() -> str:
    """The browser's path; skips the test where there is none (RCA_CHROMIUM can name one)."""
    found = os.environ.get("RCA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (RCA_CHROMIUM can name one)")
    return found


class Measured(NamedTuple):
    """What was found at each of WIDTHS, and what the browser wrote to its console."""

    views: list[dict[str, Any]]
    console: list[str]


def measure(page: Path, folder: Path, *, dark: bool) -> Measured:
    """What Chromium makes of a page at each of WIDTHS, in its light or its dark colours, all of it unfolded."""
    frames = "".join(f'<iframe src="{page.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>' for width in WIDTHS)
    around = folder / "around.html"
    around.write_text(f'<!doctype html><meta charset="utf-8">{frames}<pre id="result"></pre><script>{_MEASURE}</script>', encoding="utf-8")
    command = [
        find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000",
        "--enable-logging=stderr", "--dump-dom", around.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]
    assert result[1], f"the page was not measured: {done.stderr[-2000:]}"
    return Measured(json.loads(html.unescape(result[1])), re.findall(r":CONSOLE[^\]]*\] (.*)", done.stderr))
