from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from sesurgeon.errors import DataError
from sesurgeon.finetune import Event, ImagesChecked
from sesurgeon.finetune.data.image_checks import bad_images, check_images
from sesurgeon.finetune.data.images import FileImages, read_image, to_mode
from sesurgeon.finetune.data.notes import conversion_notes


def _pixel(image: Image.Image) -> object:
    return image.getpixel((0, 0))


def test_16_bit_grey_keeps_its_upper_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(to_mode(read_image(tmp_path / "deep.png"), "L")).tolist() == [[0, 0, 1, 128, 255]]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red, green, blue = _pixel(to_mode(read_image(tmp_path / "print.jpg"), "RGB"))  # type: ignore[misc]
    assert red > 240
    assert green < 15
    assert blue < 15


def test_transparency_is_laid_over_white() -> None:
    assert _pixel(to_mode(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "RGB")) == (255, 255, 255)
    assert _pixel(to_mode(Image.new("RGBA", (1, 1), (10, 20, 30, 255)), "RGB")) == (10, 20, 30)
    assert _pixel(to_mode(Image.new("LA", (1, 1), (0, 0)), "L")) == 255


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("rare", ["LAB", "La", "RGBa", "HSV", "YCbCr", "CMYK", "1", "P", "PA", "I;16"])
def test_whatever_pillow_reads_becomes_what_a_model_takes(rare: str, mode: str) -> None:
    assert to_mode(Image.new(rare, (2, 2)), mode).mode == mode


def test_transparency_stays_where_the_model_takes_it() -> None:
    assert _pixel(to_mode(Image.new("RGBA", (1, 1), (1, 2, 3, 4)), "RGBA")) == (1, 2, 3, 4)
    assert _pixel(to_mode(Image.new("RGB", (1, 1), (1, 2, 3)), "RGBA")) == (1, 2, 3, 255)
    assert _pixel(to_mode(Image.new("LA", (1, 1), (7, 9)), "LA")) == (7, 9)


def test_a_palette_with_transparency_is_resolved(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=bytes([255, 0]))
    found = to_mode(read_image(tmp_path / "palette.png"), "RGB")
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(9, 8, 7), (255, 255, 255)]


def test_grey_and_bitmap_become_rgb() -> None:
    assert _pixel(to_mode(Image.new("L", (1, 1), 7), "RGB")) == (7, 7, 7)
    assert _pixel(to_mode(Image.new("1", (1, 1), 1), "RGB")) == (255, 255, 255)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        to_mode(Image.new("F", (1, 1), 0.5), "L")


def test_integers_of_32_bits_are_refused_and_told_from_those_of_16(tmp_path: Path) -> None:
    Image.fromarray(np.arange(9, dtype=np.int32).reshape(3, 3)).save(tmp_path / "wide.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n\x00\xff\x80\x00")  # which Pillow reads into 32 bits
    wide, deep = check_images([tmp_path / "wide.tif", tmp_path / "deep.pgm"])
    assert wide.problem == "its pixels are 32-bit integers, whose range is not known"
    assert (deep.problem, deep.kinds) == (None, ("16-bit",))
    assert np.asarray(to_mode(read_image(tmp_path / "deep.pgm"), "L")).tolist() == [[0, 128]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_photos_are_turned_as_their_orientation_says(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = Image.fromarray(np.repeat(np.arange(0, 240, 40).reshape(2, 3), 8, 0).repeat(8, 1).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lying, plain = tmp_path / f"lying.{suffix}", tmp_path / f"plain.{suffix}"
    stored.save(lying, exif=exif)
    stored.save(plain)
    upright = np.asarray(stored)
    upright = upright if orientation < 5 else upright.T
    upright = upright[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    seen = to_mode(read_image(lying), "L")
    assert seen.size == ((24, 16) if orientation < 5 else (16, 24))
    assert np.abs(np.asarray(seen).astype(int) - upright).max() <= 3
    if orientation == 1:
        assert seen.tobytes() == to_mode(read_image(plain), "L").tobytes()
    counted = ("rotated",) if orientation > 1 and suffix != "tif" else ()  # Pillow turns a TIFF itself
    assert [checked.kinds for checked in check_images([lying, plain])] == [counted, ()]


def test_rotated_photos_are_counted_in_a_note(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (9, 9)).save(tmp_path / "lying.jpg", exif=exif)
    assert conversion_notes(check_images([tmp_path / "lying.jpg"])) == (
        "Converted when read: 1 rotated image (turned upright by their EXIF orientation).",
    )


def test_damaged_metadata_do_not_keep_an_image_from_being_read(tmp_path: Path) -> None:
    Image.new("L", (8, 9), 7).save(tmp_path / "odd.jpg", exif=b"Exif\0\0no TIFF at all")
    (checked,) = check_images([tmp_path / "odd.jpg"])
    assert (checked.problem, checked.kinds) == (None, ())
    assert read_image(tmp_path / "odd.jpg").size == (8, 9)


def test_bad_files_are_named_in_order_with_a_reason(tmp_path: Path) -> None:
    good = tmp_path / "a.png"
    Image.new("L", (40, 40), 3).save(good)
    empty = tmp_path / "b.png"
    empty.touch()
    text = tmp_path / "c.jpg"
    text.write_text("not a picture")
    torn = tmp_path / "d.jpg"
    Image.effect_noise((64, 64), 90).save(torn)
    torn.write_bytes(torn.read_bytes()[:900])
    seen: list[Event] = []
    bad = bad_images(check_images([good, empty, text, torn], workers=2, on_progress=seen.append))
    assert [image.path for image in bad] == [empty, text, torn]
    assert bad[0].reason == "it is empty, or of no image format that Pillow reads"
    assert "truncated" in bad[2].reason
    assert seen == [ImagesChecked(done, 4) for done in (1, 2, 3, 4)]


def test_unusual_images_are_counted_by_what_becomes_of_them(tmp_path: Path) -> None:
    made = {
        "print.jpg": Image.new("CMYK", (8, 8)),
        "grey16.png": Image.fromarray(np.zeros((8, 8), dtype=np.uint16)),
        "clear.png": Image.new("RGBA", (8, 8)),
        "clear2.png": Image.new("LA", (9, 9)),
        "tiny.png": Image.new("L", (1, 1)),
        "plain.png": Image.new("L", (8, 8)),
    }
    for name, image in made.items():
        image.save(tmp_path / name)
    (tmp_path / "torn.png").touch()
    checks = check_images([tmp_path / name for name in (*made, "torn.png")])
    assert [checked.kinds for checked in checks] == [
        ("CMYK",), ("16-bit",), ("transparent",), ("transparent",), (), (), (),
    ]  # fmt: skip
    assert conversion_notes(checks) == (
        "Converted when read: 1 CMYK image (to the model's colours), 1 16-bit image (to its upper 8 bits), "
        "2 transparent images (laid over white unless the model takes transparency).",
        f"1 image is less than 8 pixels wide or high, and used anyway: {tmp_path / 'tiny.png'}.",
    )


def test_16_bit_colour_is_noticed_though_pillow_cuts_it(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)  # 1 x 1, 16 bits, colour
    pixel = zlib.compress(b"\0" + struct.pack(">3H", 256, 32768, 65535))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    (checked,) = check_images([tmp_path / "deep.png"])
    assert (checked.problem, checked.kinds) == (None, ("16-bit",))
    assert _pixel(to_mode(read_image(tmp_path / "deep.png"), "RGB")) == (1, 128, 255)


def test_a_file_that_vanishes_later_is_a_data_error_that_names_it(tmp_path: Path) -> None:
    images = FileImages((tmp_path / "gone.png",), (0,))
    with pytest.raises(DataError, match=r"gone\.png"):
        images[0]
