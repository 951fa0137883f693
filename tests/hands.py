"What a person does with the labeler in a browser, and what he sees."
import io
import numpy as np
from PIL import Image
from pokeidm.video import barcode, write_clip

N = 600                                                      # 20 s: 100 stills, one for every 6 frames


def write_video(path):
    write_clip(path, (barcode(i, 90, 160) for i in range(N)), np.arange(N) / 30, preset="ultrafast", g=30)
    return path


def barcode_of(screenshot):
    "The number in a picture, dimmed (not valid) or not, on black ground."
    return _number(np.array(Image.open(io.BytesIO(screenshot)).convert("L")))


def _number(picture):
    h, w = picture.shape
    return sum(int(picture[h // 8:h // 3, int((b + 0.5) * w / 16)].mean() > 62) << b for b in range(16))


class Hands:
    "Needs `page`, and the widget in it."
    @property
    def canvas(self): return self.page.locator("canvas.stills").bounding_box()

    @property
    def columns(self): return round(self.canvas["width"] / 132)      # stills of 128 x 72, 4 apart, a mark of 6 below

    def point(self, still, x=0.5, y=0.5):
        "Where still number `still` of the window lies on the page."
        box, columns = self.canvas, self.columns
        return box["x"] + still % columns * 132 + x * 128, box["y"] + still // columns * 82 + y * 72

    def drag(self, start, end, steps=6, keys=()):
        mouse, keyboard = self.page.mouse, self.page.keyboard
        for key in keys: keyboard.down(key)
        mouse.move(*start); mouse.down(); mouse.move(*end, steps=steps); mouse.up()
        for key in keys: keyboard.up(key)
        self.rest()

    def press(self, *keys):
        for key in keys: self.page.keyboard.press(key)
        self.rest()

    def rest(self): self.page.wait_for_timeout(100)

    def shown(self, still):
        "The number in the picture that is on the screen as number `still` of the window."
        x, y = self.point(still, 0, 0)
        return barcode_of(self.page.screenshot(clip={"x": x, "y": y, "width": 128, "height": 72}))

    def all_shown(self, n):
        "The same of the first `n` stills."
        window, columns = np.array(Image.open(io.BytesIO(self.page.locator("canvas.stills").screenshot())).convert("L")), self.columns
        return [_number(window[i // columns * 82:, i % columns * 132:][:72, :128]) for i in range(n)]

    @property
    def banner(self): return self.page.locator(".banner").inner_text()

    @property
    def status(self): return self.page.locator(".status").inner_text()
