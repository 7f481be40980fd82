"""Images: bytes become arrays, and arrays become bytes.

Files' bytes come in; headers, samples, metadata and notes go out, and the way back: tiles are cut
and stitched, results encoded. This room reads no file by name and knows no price. Untrusted bytes
are decoded in child processes (`decoding`), so it imports neither Beam, Arrow nor PyTorch.

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

What is carried over besides is `Metadata`:

- An ICC profile that describes the samples given, cut to its size; one that is damaged is dropped.
- Where there is none: one that says what the file says otherwise of its colors, but for sRGB
  (`metadata.color_tags`): cICP, gAMA and cHRM of PNG by their rank, of which cICP is above an ICC
  profile, code points of AVIF and HEIC, WhitePoint, PrimaryChromaticities and TransferFunction of
  TIFF, calibrated colors of BMP, Adobe RGB and Gamma in EXIF. PQ and HLG are a note.
- EXIF, without its thumbnail, pictures in maker's notes and places in pixels; sizes become the
  result's. Other notes of makers stay where they stand in the block (a TIFF leaves them out): what
  they say of places in the source's file does not hold for the result.
- XMP likewise, without what it says of gain maps and other parts of the source's file.
- The resolution, where the format of the result has a place for it.

What differs from plain 8-bit gray or RGB, and what is left behind (further pictures, gain and depth
maps, comments, texts, IPTC, what follows the picture), is said in `DecodedImage.notes`.

A JPEG has no checksum: damage inside it is noticed where its decoder stumbles over it. What it
stumbles over though no pixel is lost (`reading.jpeg_repair`) is noted.
"""
