"""Pictures come only from within the folder, whatever a file holds costs little, and what is missing is counted."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_flip.reports.page._thumbnails import PictureError, folder_pictures, make_sprite
from lightning_flip.stores.errors import HistoryError
from tests.reports.report_runs import HOSTILE, picture_names, write_images

RED = (200, 30, 30)


def sheet(sprite) -> Image.Image:
    return Image.open(io.BytesIO(sprite.webp)).convert("RGBA")


def tile(sprite, index) -> np.ndarray:
    row, column = divmod(sprite.place[index], sprite.columns)
    size = sprite.tile
    box = column * size, row * size, (column + 1) * size, (row + 1) * size
    return np.asarray(sheet(sprite).crop(box))


def middle(sprite, index) -> list[int]:
    """The color in the middle of a picture, roughly."""
    half = sprite.tile // 2
    return tile(sprite, index)[half - 2 : half + 2, half - 2 : half + 2].reshape(-1, 4).mean(axis=0).round().tolist()


def near(color, expected, by=12) -> bool:
    return bool(np.abs(np.array(color[:3], float) - np.array(expected, float)).max() <= by) and color[3] > 250


def save(folder, name, picture, **options) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return name


class TestFolder:
    def test_pictures_of_a_folder(self, tmp_path):
        names = picture_names("train", 40)
        write_images(tmp_path, names, np.arange(40) % 10)
        sprite = make_sprite([39, 3, 17], folder_pictures(tmp_path, dict(enumerate(names))))
        assert (sprite.tile, sprite.columns, sprite.rows) == (32, 3, 1)
        assert dict(sprite.place) == {39: 0, 3: 1, 17: 2}
        assert sprite.notes == ()
        original = np.asarray(Image.open(tmp_path / names[3])).reshape(-1, 3).mean(axis=0)
        assert near([*tile(sprite, 3)[..., :3].reshape(-1, 3).mean(axis=0), 255], original, by=15)

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_whole_path_within_the_folder_is_read(self, tmp_path, whole):
        save(tmp_path, "in/a.png", Image.new("RGB", (8, 8), RED))
        name = str(tmp_path / "in" / "a.png") if whole else "in/../in/./a.png"
        assert near(middle(make_sprite([0], folder_pictures(tmp_path, {0: name})), 0), RED)

    def test_nothing_outside_the_folder_is_read(self, tmp_path):
        root = tmp_path / "root"
        for place in (tmp_path, tmp_path / "root2", root):
            save(place, "a.png", Image.new("RGB", (8, 8), RED))
        (root / "link.png").symlink_to(tmp_path / "a.png")
        (root / "folder").symlink_to(tmp_path / "root2")
        (root / "inner.png").symlink_to(root / "a.png")
        for name in (
            "../a.png",
            "../root2/a.png",
            str(tmp_path / "a.png"),
            "link.png",
            "folder/a.png",
            "x/../../a.png",
        ):
            with pytest.raises(PictureError, match="outside the folder"):
                folder_pictures(root, {0: name})(0)
        folder_pictures(root, {0: "inner.png"})(0)

    def test_the_folder_itself_may_be_a_link(self, tmp_path):
        save(tmp_path, "real/a.png", Image.new("RGB", (8, 8), RED))
        (tmp_path / "link").symlink_to(tmp_path / "real")
        folder_pictures(tmp_path / "link", {0: "a.png", 1: str(tmp_path / "link" / "a.png")})(1)

    def test_only_files_are_opened(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "folder.png").mkdir()
        for name in ("pipe.png", "folder.png", "."):
            with pytest.raises(PictureError, match="not files"):
                folder_pictures(tmp_path, {0: name})(0)

    @pytest.mark.parametrize("name", [*HOSTILE, "a" * 300, "a/" * 3000, "\x00", None, "gone.png", "a.png/b.png"])
    def test_odd_names_are_counted_and_nothing_else(self, tmp_path, name):
        save(tmp_path, "a.png", Image.new("RGB", (8, 8), RED))
        sprite = make_sprite([0, 1], folder_pictures(tmp_path, {0: name, 1: "a.png"}))
        assert dict(sprite.place) == {1: 0}
        assert len(sprite.notes) == 1
        assert sprite.notes[0].startswith("1 of 2 pictures ")

    def test_a_loop_of_links_is_a_missing_picture(self, tmp_path):
        (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
        with pytest.raises(PictureError):
            folder_pictures(tmp_path, {0: "loop.png"})(0)

    def test_the_place_has_to_be_a_folder(self, tmp_path):
        with pytest.raises(NotADirectoryError, match="images must be a folder"):
            folder_pictures(tmp_path / "gone", {})

    def test_missing_pictures_are_counted_by_reason(self, tmp_path):
        save(tmp_path, "a.png", Image.new("RGB", (8, 8), RED))
        (tmp_path / "text.png").write_text("no picture")
        names = {0: "a.png", 1: "b.png", 2: "c.png", 3: "../x.png", 4: None, 5: "text.png"}
        assert sorted(make_sprite(range(6), folder_pictures(tmp_path, names)).notes) == [
            "1 of 6 pictures are not pictures, or damaged.",
            "1 of 6 pictures have no path.",
            "1 of 6 pictures lie outside the folder and were refused.",
            "2 of 6 pictures were not found.",
        ]

    def test_not_a_single_picture_is_an_error(self, tmp_path):
        with pytest.raises(
            HistoryError, match=r"None of the pictures.*2 of 2 pictures were not found.*Name the folder"
        ):
            make_sprite([0, 1], folder_pictures(tmp_path, {0: "a.png", 1: "b.png"}))
        assert make_sprite([], folder_pictures(tmp_path, {})) is None


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "picture", "options"),
        [
            ("a.jpg", Image.new("RGB", (300, 200), RED), {}),
            ("cmyk.jpg", Image.new("RGB", (30, 30), RED).convert("CMYK"), {}),
            ("large.jpg", Image.new("RGB", (5000, 4000), RED), {}),
            ("palette.png", Image.new("RGB", (30, 30), RED).quantize(4), {}),
            ("palette.gif", Image.new("RGB", (30, 30), RED).quantize(4), {}),
            ("a.bmp", Image.new("RGB", (30, 30), RED), {}),
            ("a.tif", Image.new("RGB", (30, 30), RED), {}),
            ("lab.tif", Image.new("RGB", (30, 30), RED), {}),
            ("a.webp", Image.new("RGB", (30, 30), RED), {}),
            ("a.ppm", Image.new("RGB", (30, 30), RED), {}),
            ("alpha.png", Image.new("RGBA", (30, 30), (*RED, 255)), {}),
            ("tiny.png", Image.new("RGB", (1, 1), RED), {}),
            ("wide.png", Image.new("RGB", (3000, 400), RED), {}),
            (
                "animated.gif",
                Image.new("RGB", (30, 30), RED),
                {"save_all": True, "append_images": [Image.new("RGB", (30, 30), "blue")] * 3},
            ),
            (
                "animated.webp",
                Image.new("RGB", (30, 30), RED),
                {"save_all": True, "append_images": [Image.new("RGB", (30, 30), "blue")] * 3},
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_every_usual_kind_is_shown(self, tmp_path, name, picture, options):
        save(tmp_path, name, picture, **options)
        assert near(middle(make_sprite([0], folder_pictures(tmp_path, {0: name})), 0), RED)

    def test_sixteen_bits_are_scaled_and_not_cut(self, tmp_path):
        save(tmp_path, "a.png", Image.fromarray(np.full((20, 20), 32_768, np.uint16)))
        save(tmp_path, "b.tif", Image.fromarray(np.tile(np.linspace(-5, 5, 40, dtype=np.float32), (40, 1))))
        sprite = make_sprite([0, 1], folder_pictures(tmp_path, {0: "a.png", 1: "b.tif"}))
        assert near(middle(sprite, 0), [128] * 3, by=4)
        assert near(middle(sprite, 1), [128] * 3, by=8)

    def test_a_transparent_picture_is_shown_over_white(self, tmp_path):
        save(tmp_path, "a.png", Image.new("RGBA", (30, 30), (0, 0, 0, 0)))
        assert near(middle(make_sprite([0], folder_pictures(tmp_path, {0: "a.png"})), 0), [255] * 3, by=3)

    def test_a_picture_is_upright_and_whole(self, tmp_path):
        pixels = np.zeros((40, 20, 3), np.uint8)
        pixels[:20] = 255  # white above black
        exif = Image.Exif()
        exif[0x0112] = 6  # was taken with the camera turned
        save(tmp_path, "a.png", Image.fromarray(np.rot90(pixels)), exif=exif)
        seen = tile(make_sprite([0], folder_pictures(tmp_path, {0: "a.png"})), 0)
        assert seen[10, 24, :3].min() > 240
        assert seen[38, 24, :3].max() < 15
        assert seen[24, 2, 3] == 0  # beside a picture that is higher than wide is nothing

    def test_pixels_of_tiny_pictures_stay_sharp(self, tmp_path):
        pixels = np.indices((8, 8)).sum(axis=0) % 2 * 255
        save(tmp_path, "a.png", Image.fromarray(pixels.astype(np.uint8)))
        seen = tile(make_sprite([0], folder_pictures(tmp_path, {0: "a.png"})), 0)
        assert np.array_equal(seen[..., 0], np.kron(pixels, np.ones((4, 4))).astype(np.uint8))

    @pytest.mark.parametrize("size", [0, 10, 60, 400, -1])
    def test_a_truncated_file_is_a_missing_picture(self, tmp_path, size):
        for number, ending in enumerate(("png", "jpg", "gif", "webp", "tif")):
            noise = Image.fromarray(np.random.default_rng(number).integers(0, 255, (60, 60, 3)).astype(np.uint8))
            path = tmp_path / save(tmp_path, f"a.{ending}", noise)
            path.write_bytes(
                path.read_bytes()[:size] if size >= 0 else path.read_bytes()[: len(path.read_bytes()) // 2]
            )
            save(tmp_path, "b.png", Image.new("RGB", (8, 8), RED))
            sprite = make_sprite([0, 1], folder_pictures(tmp_path, {0: f"a.{ending}", 1: "b.png"}))
            assert 1 in sprite.place
            assert (0 in sprite.place) != bool(sprite.notes)  # GIF and TIFF may be whole enough
            if ending in ("png", "jpg", "webp"):
                assert 0 not in sprite.place

    def test_a_bomb_is_not_decoded(self, tmp_path):
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        for side in (20_000, 100_000):
            pixels = zlib.compressobj(9)
            data = b"".join(pixels.compress(b"\x00" * side) for _ in range(1_000)) + pixels.flush()
            header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
            bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
            (tmp_path / "bomb.png").write_bytes(bomb)
            began = time.process_time()
            with pytest.raises(PictureError, match="larger than 50 million pixels"):
                folder_pictures(tmp_path, {0: "bomb.png"})(0)
            assert time.process_time() - began < 0.5

    def test_formats_that_run_programs_are_refused(self, tmp_path):
        Image.new("RGB", (30, 30), RED).save(tmp_path / "a.eps")
        (tmp_path / "a.eps").rename(tmp_path / "a.png")
        with pytest.raises(PictureError, match="not pictures"):
            folder_pictures(tmp_path, {0: "a.png"})(0)


class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [
            np.full((8, 8), 0.5),
            np.full((8, 8), 128, np.uint8),
            np.full((8, 8), 32_768, np.uint16),
            np.full((3, 8, 8), 0.5, np.float32),
            np.full((8, 8, 3), 0.5, np.float16),
            np.full((1, 8, 8), 128),
            np.full((8, 8, 1), 128, np.int64),
            np.full((40, 40, 3), 128, np.uint8).tolist(),
        ],
        ids=lambda array: str(np.shape(array)),
    )
    def test_every_usual_array_is_shown(self, array):
        assert near(middle(make_sprite([5], {5: array}.get), 5), [128] * 3, by=3)

    def test_normalized_pixels_are_stretched(self):
        pixels = np.tile(np.linspace(-2.1, 2.6, 32), (3, 32, 1))
        row = tile(make_sprite([0], {0: pixels}.get), 0)[16, :, 0].astype(int)
        assert row[0] < 12
        assert row[-1] > 243
        assert near(middle(make_sprite([0], {0: np.full((4, 4), np.nan)}.get), 0), [0] * 3)

    def test_a_transparent_array_and_a_mask(self):
        assert near(middle(make_sprite([0], {0: np.zeros((8, 8, 4), np.uint8)}.get), 0), [255] * 3)
        assert near(middle(make_sprite([0], {0: np.ones((8, 8), bool)}.get), 0), [255] * 3)

    @pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((2, 5, 5)), np.zeros((0, 4)), "text", object(), None])
    def test_what_is_no_picture_is_counted(self, bad):
        sprite = make_sprite([0, 1], {0: bad, 1: np.zeros((4, 4))}.get)
        assert list(sprite.place) == [1]
        assert len(sprite.notes) == 1

    def test_an_error_of_the_dataset_is_counted(self):
        def broken(index: int) -> np.ndarray:
            if index:
                raise RuntimeError("<b>disk</b>")
            return np.zeros((4, 4))

        assert make_sprite([0, 1], broken).notes == ("1 of 2 pictures cannot be read (RuntimeError).",)

    def test_only_the_first_ones_are_taken(self):
        asked = []

        def picture(index: int) -> np.ndarray:
            asked.append(index)
            return np.zeros((4, 4))

        sprite = make_sprite([*range(1000), 2000], picture)
        assert asked == list(range(600))
        assert (len(sprite.place), sprite.columns, sprite.rows) == (600, 30, 20)

    def test_the_same_pictures_give_the_same_file(self):
        pictures = dict(enumerate(np.random.default_rng(0).random((20, 40, 40))))
        assert make_sprite(range(20), pictures.get).webp == make_sprite(range(20), pictures.get).webp
