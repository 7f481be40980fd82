"""Images: bytes become arrays, and arrays become bytes.
For reading, files' bytes come in; headers, samples, metadata and notes go out. For writing, samples
and metadata come in; encoded bytes go out. Tiles are cut and stitched here too. This room opens
only local files that its caller names, knows no price, and imports neither Beam, Arrow nor PyTorch,
as child processes import it that decode untrusted bytes (`decoding`) or encode (`encoding`).

`reading.pixels.decode` reads by content, never by name, and always gives 8-bit or 16-bit samples,
gray or RGB, with alpha apart:

| in the file | becomes |
| --- | --- |
| gray, RGB, 8 bits | as it is; gray stays one channel |
| gray, RGB, 16 bits (PNG, TIFF) | uint16 |
| alpha | kept apart from the color; associated (premultiplied) alpha is divided out |
| palette | RGB, also where all its entries are gray; transparent entries become alpha |
| palette of 8-bit values (TIFF, whose own have 16) | RGB of these values |
| transparent color (PNG's tRNS) | alpha |
| 1, 2, 4 bits | 8-bit gray over the full range |
| CMYK | sRGB through the embedded profile, which is then dropped; else by Pillow's formula |
| YCbCr, L*a*b* (TIFF) | RGB |
| more than 8 bits (AVIF, HEIC) | 8 bits |
| TIFF of 12, 24, 32 or 64 bits, signed or float, of 16-bit CMYK, of plain YCbCr | refused |
| TIFF in planes, with more extra samples than alpha | color and the first alpha, if any |
| TIFF whose samples no codec gives for certain (`reading.tiff_samples`), camera raw | refused |
| TIFF that lacks strips or tiles, or leaves some empty (sparse) | refused |
| JPEG of 12 or 16 bits | refused |
| several frames or pages | the first (HEIC: the primary); reduced copies and masks do not count |
| EXIF orientation | applied to the pixels, and 1 in the EXIF block |

`Metadata` holds what else is carried over:

- An ICC profile that describes the samples given, cut to its size; one that is damaged is dropped.
- In a file without one: a profile made from the file's other tags of color, unless they mean sRGB
  (`metadata.color_tags`): cICP, gAMA and cHRM of PNG by their rank, of which cICP is above an ICC
  profile; code points of AVIF and HEIC; WhitePoint, PrimaryChromaticities and TransferFunction of
  TIFF; calibrated colors of BMP; Adobe RGB and Gamma in EXIF. PQ and HLG give a note.
- EXIF, without its thumbnail, pictures in maker's notes and positions in pixels; sizes become the
  result's. Other maker's notes stay at their offset in the block (a TIFF leaves them out); offsets
  into the source's file that they hold are no longer valid.
- XMP, changed in the same way, and without properties of gain maps and other parts of the source's
  file.
- The resolution, if the format of the result has a place for it.

`DecodedImage.notes` says how the file differs from plain 8-bit gray or RGB, and which parts are
left behind: further pictures, gain and depth maps, comments, texts, IPTC, data after the picture.

A JPEG has no checksum: damage inside it is noticed if its decoder warns of it. Oddities that cost
no pixel (`reading.jpeg_repair`) are noted.
"""
