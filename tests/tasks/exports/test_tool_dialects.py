"""CVAT, VGG Image Annotator, Supervisely and tables of Google, in what is particular to each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import ObjectDetection
from tests.support.annotated_sets import (
    BOX,
    MASK,
    SIZE,
    open_set,
    read_boxes,
    read_classes,
    refusal,
    save_pictures,
    write_json,
    write_text,
)
from tests.support.tool_exports import (
    BOTTOM,
    CORNERS,
    FULL,
    HEIGHT,
    LEFT,
    POLYGON,
    RIGHT,
    TOP,
    VIA_3,
    VIA_BOX,
    VIA_POLYGON,
    VOTT,
    WIDTH,
    bitmap,
    cvat,
    cvat_image,
    figure,
    supervisely,
    via,
    via_region,
    write_via_csv,
)

SQUARE = ("square", *BOX)
CVAT_BOX = f'<box label="square" xtl="{LEFT}" ytl="{TOP}" xbr="{RIGHT}" ybr="{BOTTOM}"/>'


def write_cvat(folder: Path, shapes: str, meta: str = "") -> Path:
    save_pictures(folder / "images", ["a.jpg"])
    write_text(folder / "annotations.xml", cvat(cvat_image(shapes), meta))
    return folder


# ---- CVAT


def test_cvat_subsets_are_splits(tmp_path: Path) -> None:
    subsets = ("Train", "Validation", "Test")
    for subset in subsets:
        save_pictures(tmp_path / "images" / subset, ["a.jpg"])
    images = "".join(cvat_image(CVAT_BOX, subset=subset) for subset in subsets)
    write_text(tmp_path / "annotations.xml", cvat(images))
    splits = open_set(ObjectDetection(), tmp_path, validation=None, test=None)
    found = {name: Path(rows[0]["image"]).parent.name for name, rows in splits.named.items()}
    assert found == {"train": "Train", "validation": "Validation", "test": "Test"}


def test_cvat_counts_what_is_not_read(tmp_path: Path) -> None:
    others = (
        '<points label="x" points="1,1"/><polyline label="x" points="1,1;2,2"/><tag label="x"/>'
    )
    box = CVAT_BOX.replace("/>", '><attribute name="color">red</attribute></box>')
    meta = "<task><labels><label><name>unused</name></label></labels></task>"
    rows, notes = read_boxes(write_cvat(tmp_path, box + others, meta))
    assert rows == [[SQUARE]]
    assert "not read: attributes (1), points (1), polylines (1)" in notes
    assert "labels of whole images, not read: x (1)" in notes
    assert "classes without objects: unused" in notes


def test_cvat_masks_are_runs_along_the_rows(tmp_path: Path) -> None:
    runs = f"0, {WIDTH * HEIGHT}"
    place = f'left="{LEFT}" top="{TOP}" width="{WIDTH}" height="{HEIGHT}"'
    path = write_cvat(tmp_path, f'<mask label="square" rle="{runs}" {place}/>')
    assert read_classes(path)[0] == [MASK.tolist()]
    assert read_boxes(path)[0] == [[SQUARE]]


def test_cvat_ellipses_and_turned_boxes_are_polygons(tmp_path: Path) -> None:
    shapes = (
        '<ellipse label="e" cx="30" cy="30" rx="10" ry="5" rotation="90"/>'
        '<box label="b" xtl="10" ytl="20" xbr="30" ybr="30" rotation="90"/>'
    )
    rows, notes = read_boxes(write_cvat(tmp_path, shapes))
    assert rows == [[("e", 25, 20, 35, 40), ("b", 15, 15, 25, 35)]]
    assert {"ellipses read as polygons: 1", "turned boxes read as polygons: 1"} <= set(notes)


def test_cvat_polygons_of_a_group_are_one_object(tmp_path: Path) -> None:
    parts = ("10,10;20,10;20,20", "40,10;50,10;50,30")
    shapes = "".join(f'<polygon label="a" points="{part}" group_id="1"/>' for part in parts)
    assert read_boxes(write_cvat(tmp_path, shapes))[0] == [[("a", 10, 10, 50, 30)]]


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ('<box label="a" xtl="1" ytl="1" xbr="5"/>', "<box> has no 'ybr'"),
        ('<box label="a" xtl="1" ytl="1" xbr="5" ybr="x"/>', "are not all numbers"),
        ('<polygon label="a" points="1,1;2,2"/>', "polygon has 2 points"),
        ('<mask label="a" rle="1,2" left="0" top="0" width="9" height="9"/>', "do not add up"),
        ('<star label="a"/>', "<star> is not a shape that is known"),
        (POLYGON.replace("square", ""), "has no label"),
    ],
)
def test_cvat_faults_name_the_line(shape: str, fault: str, tmp_path: Path) -> None:
    message = refusal(write_cvat(tmp_path, shape))
    assert "annotations.xml:5" in message and fault in message


def test_cvat_for_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", ["frame_000000.png", "frame_000001.png", "frame_000002.png"])
    sides = f'xtl="{LEFT}" ytl="{TOP}" xbr="{RIGHT}" ybr="{BOTTOM}"'
    shapes = "".join(f'<box frame="{n}" outside="{n // 2}" {sides}/>' for n in range(3))
    write_text(tmp_path / "annotations.xml", cvat(f'<track id="0" label="square">{shapes}</track>'))
    boxes, notes = read_boxes(tmp_path)
    assert boxes == [[SQUARE], [SQUARE], []]
    assert any("tracks of a video, read as 3 images" in note for note in notes)


def test_cvat_for_video_without_shapes_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "annotations.xml", cvat('<track id="0" label="a"/>'))
    assert "has no <image> and no shape of a <track>" in refusal(tmp_path)
    write_text(tmp_path / "annotations.xml", cvat('<track><box frame="x"/></track>'))
    assert "annotations.xml:5: shape of a track has the frame 'x'" in refusal(tmp_path)


def test_projects_of_via_3_are_read_as_boxes_and_masks(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "via.json", VIA_3)
    assert read_boxes(tmp_path)[0] == [[SQUARE]]
    assert read_classes(tmp_path)[0] == [MASK.tolist()]


def test_assets_of_vott_that_nobody_annotated_are_counted(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg"])
    new = {"asset": {"name": "b.jpg", "state": 1}, "regions": []}
    write_json(tmp_path / "vott.json", {**VOTT, "assets": {**VOTT["assets"], "2": new}})
    boxes, notes = read_boxes(tmp_path)
    assert boxes == [[SQUARE]]
    assert "not read: images that were not annotated (1)" in notes


def test_cvat_entities_are_not_expanded(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    bomb = '<!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    text = cvat(cvat_image(CVAT_BOX)).replace("<annotations>", f"{bomb}<annotations>")
    write_text(tmp_path / "annotations.xml", text)
    assert "declares <!DOCTYPE annotations>" in refusal(tmp_path)


# ---- VGG Image Annotator

VIA_REGIONS = [
    via_region({"class": "square"}, **VIA_BOX),
    via_region({"class": {"dot": True, "square": False}}, name="circle", cx=30, cy=30, r=5),
    via_region({"class": "x"}, name="point", cx=1, cy=1),
]


@pytest.mark.parametrize("kind", ["regions", "project", "csv", "first version"])
def test_via_exports_are_read_alike(kind: str, tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    content: Any = via(VIA_REGIONS)
    if kind == "csv":
        write_via_csv(tmp_path / "via.csv", VIA_REGIONS)
    elif kind == "first version":
        write_json(tmp_path / "via.json", via({str(n): r for n, r in enumerate(VIA_REGIONS)}))
    elif kind == "project":
        settings = {"_via_settings": {}, "_via_attributes": {}}
        write_json(tmp_path / "via.json", {**settings, "_via_img_metadata": content})
    else:
        write_json(tmp_path / "via.json", content)
    rows, notes = read_boxes(tmp_path)
    assert rows == [[SQUARE, ("dot", 25, 25, 35, 35)]]
    assert "not read: points (1)" in notes


def test_via_attributes_are_chosen_by_key(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    attributes = {"kind": "square", "color": "red"}
    write_json(tmp_path / "via.json", via([via_region(attributes, **VIA_POLYGON)]))
    assert "attributes kind (1), color (1): any may be the class; choose one with" in refusal(
        tmp_path
    )
    rows, notes = read_boxes(tmp_path, field="kind")
    assert rows == [[SQUARE]]
    assert "not read: values of attribute 'color' (1)" in notes


def test_a_via_region_without_the_attribute_of_others_has_no_label(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    regions = [via_region({"class": "a"}, **VIA_BOX), via_region({}, **VIA_BOX)]
    write_json(tmp_path / "via.json", via(regions))
    assert "via.json, a.jpg, region 2: has no label" in refusal(tmp_path)


# ---- Supervisely


def write_supervisely(folder: Path, **images: Any) -> Path:
    save_pictures(folder / "ds" / "img", [f"{name}.jpg" for name in images])
    for name, content in images.items():
        write_json(folder / "ds" / "ann" / f"{name}.jpg.json", content)
    write_json(folder / "meta.json", {"classes": [{"title": "square"}, {"title": "unused"}]})
    return folder


def test_supervisely_bitmaps_and_holes_are_masks(tmp_path: Path) -> None:
    ring = figure("polygon", [[10, 10], [40, 10], [40, 40], [10, 40]])
    ring["points"]["interior"] = [[[20, 20], [30, 20], [30, 30], [20, 30]]]
    path = write_supervisely(tmp_path, a=supervisely([ring, bitmap(FULL, LEFT, TOP)]))
    (mask,), _ = read_classes(path)
    expected = MASK.copy()
    expected[10:40, 10:40] = 1
    expected[20:30, 20:30] = 0
    assert np.array_equal(mask, expected)
    assert read_boxes(path)[0] == [[("square", 10, 10, 40, 40), SQUARE]]


def test_supervisely_names_what_is_not_read(tmp_path: Path) -> None:
    box = figure("rectangle", [CORNERS[2], CORNERS[0]])
    path = write_supervisely(tmp_path, a=supervisely([box, figure("point", [[1, 1]])], "night"))
    rows, notes = read_boxes(path)
    assert rows == [[SQUARE]]
    assert "not read: points (1)" in notes
    assert any(note.startswith("labels of whole images, not read: ") for note in notes)
    assert "classes without objects: unused" in notes


def test_supervisely_tags_are_splits(tmp_path: Path) -> None:
    box = figure("rectangle", CORNERS[::2])
    images = {"a": supervisely([box], "train"), "b": supervisely([box], "val")}
    path = write_supervisely(tmp_path, **images)
    splits = open_set(ObjectDetection(), path, validation=None)
    assert [Path(rows[0]["image"]).name for rows in splits.named.values()] == ["a.jpg", "b.jpg"]


# ---- tables of Google and Roboflow


def test_open_images_names_and_splits_are_those_of_its_files(tmp_path: Path) -> None:
    sides = [LEFT / SIZE[0], RIGHT / SIZE[0], TOP / SIZE[1], BOTTOM / SIZE[1]]
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
    for split in ("train", "validation"):
        save_pictures(tmp_path / split, ["0a1.jpg"])
        line = f"0a1,x,/m/01,1,{','.join(map(str, sides))},0\n"
        write_text(tmp_path / f"oidv6-{split}-annotations-bbox.csv", header + line)
    write_text(tmp_path / "class-descriptions-boxable.csv", "/m/01,square\n")
    assert read_boxes(tmp_path)[0] == [[SQUARE]]
    splits = open_set(ObjectDetection(), tmp_path, validation=None)
    assert list(splits.named) == ["train", "validation"]


@pytest.mark.parametrize(
    "words", [("TRAIN", "VALIDATION", "TEST"), ("training", "validation", "test")]
)
def test_automl_splits_are_those_of_its_first_column(words: Any, tmp_path: Path) -> None:
    save_pictures(tmp_path, [f"{word}.jpg" for word in words])
    corners = f"{LEFT / SIZE[0]},{TOP / SIZE[1]},,,{RIGHT / SIZE[0]},{BOTTOM / SIZE[1]},,"
    lines = (f"{word},gs://bucket/x/{word}.jpg,square,{corners}\n" for word in words)
    write_text(tmp_path / "import.csv", "".join(lines))
    assert read_boxes(tmp_path)[0] == [[SQUARE]]
    splits = open_set(ObjectDetection(), tmp_path, validation=None, test=None)
    assert list(splits.named) == ["train", "validation", "test"]


def test_roboflow_tables_are_read_by_folder(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        save_pictures(tmp_path / split, ["a.jpg"])
        text = f"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,96,72,square,{LEFT},{TOP},"
        write_text(tmp_path / split / "_annotations.csv", f"{text}{RIGHT},{BOTTOM}\n")
    assert read_boxes(tmp_path)[0] == [[SQUARE]]
    splits = open_set(ObjectDetection(), tmp_path, validation=None, test=None)
    assert list(splits.named) == ["train", "validation", "test"]


def test_attributes_of_files_in_via_are_counted(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    content = via([via_region({"class": "square"}, **VIA_BOX)])
    (entry,) = content.values()
    write_json(tmp_path / "via.json", {"a": {**entry, "file_attributes": {"scene": "street"}}})
    boxes, notes = read_boxes(tmp_path)
    assert boxes == [[SQUARE]]
    assert "not read: values of file attribute 'scene' (1)" in notes


def test_via_regions_without_attributes_are_of_one_class(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "via.json", via([via_region({}, **VIA_BOX)]))
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("object", *BOX)]]
    assert any("no region has an attribute" in note for note in notes)
