"""aardwolf without a window: comes in, presses Return and looks until the whole desktop has a colour.

Arguments: URL, width, height, colour as six hexadecimal digits, bound in seconds. The pointer's place in the middle is
left out. Prints how far the farthest pixel is off; ends with 1 and the reason when the colour does not come.
"""

import asyncio
import sys

from aardwolf.commons.factory import RDPConnectionFactory
from aardwolf.commons.iosettings import RDPIOSettings
from aardwolf.commons.queuedata.constants import VIDEO_FORMAT
from PIL import Image, ImageChops, ImageDraw

RETURN = 0x1C


def farthest(picture, colour):
    # aardwolf takes blue for red in pictures of 32 bits a pixel, compressed or not.
    blue, green, red = picture.convert("RGB").split()
    picture = Image.merge("RGB", (red, green, blue))
    x, y = picture.width // 2, picture.height // 2
    ImageDraw.Draw(picture).rectangle((x - 32, y - 32, x + 32, y + 32), fill=colour)
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, colour))
    return max(high for _, high in difference.getextrema())


async def main(url, width, height, colour, bound):
    colour = tuple(bytes.fromhex(colour))
    settings = RDPIOSettings()
    settings.video_width, settings.video_height = int(width), int(height)
    settings.video_bpp_min, settings.video_bpp_max = 15, 32
    settings.video_out_format = VIDEO_FORMAT.PIL
    # Its default has a clipboard and drdynvc; this one has plain bitmaps.
    settings.channels = []
    client = RDPConnectionFactory.from_url(url, settings).get_connection(settings)
    _, error = await client.connect()
    if error is not None:
        return f"connecting: {error}"
    off = None
    try:
        async with asyncio.timeout(float(bound)):
            pressed = False
            while off != 0:
                if await client.ext_out_queue.get() is None:
                    return "the host hung up"
                if not pressed:
                    # The host shows its picture, so it takes input.
                    pressed = True
                    for is_pressed in (True, False):
                        _, error = await client.send_key_scancode(RETURN, is_pressed, False)
                        if error is not None:
                            return f"pressing a key: {error}"
                if client.ext_out_queue.empty():
                    off = farthest(client.get_desktop_buffer(VIDEO_FORMAT.PIL), colour)
    except TimeoutError:
        return f"the farthest pixel is off by {off} of 255 after {bound} s"
    print(f"farthest pixel off by {off} of 255")
    await client.terminate()
    return None


sys.exit(asyncio.run(main(*sys.argv[1:])))
