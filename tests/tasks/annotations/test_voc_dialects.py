"""Folders of Pascal VOC as people have them: names of folders, lists, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError
from tasks import ObjectDetection
from tasks.annotations.voc import find_voc, read_voc
from tests.support.annotated_sets import (
    BOX,
    SIZE,
    open_set,
    read_boxes,
    refusal,
    save_picture,
    save_pictures,
    write_text,
)

NAMES = ("a.jpg", "b.jpg", "c.jpg")
EXPECTED = [[("square", *BOX)]] * 3


def xml_of(name: str, size: tuple[int, int] = SIZE) -> str:
    left, top, right, bottom = BOX
    return (
        f"<annotation><filename>{name}</filename><path>C:\\x\\{name}</path>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"<object><name>square</name><part><name>edge</name></part><bndbox><xmin>{left}</xmin>"
        f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>"
    )


def write_voc(root: Path, annotations: str, images: str, stems: str | list[str] = "abc") -> Path:
    for index, stem in enumerate(stems):
        save_picture(root / images / f"{stem}.jpg", index)
        write_text(root / annotations / f"{stem}.xml", xml_of(f"{stem}.jpg"))
    return root


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations", "images"),
        ("Annotations", "JPEGImages"),
        ("Annotation", "Images"),
        ("xmls", "imgs"),
        ("annotations/train", "images/train"),
        ("train/annotations", "train/images"),
        ("annotations/xmls", "images"),  # Oxford pets
        ("train", "train"),
    ],
)
def test_read_voc_finds_folders_of_any_usual_name(
    annotations: str, images: str, tmp_path: Path
) -> None:
    root = write_voc(tmp_path, annotations, images)
    save_picture(root / images / "z.jpg", 9)
    boxes, notes = read_boxes(root)
    assert boxes == EXPECTED
    assert "images without an .xml file that is read, not read: 1 (z.jpg)" in notes


@pytest.mark.parametrize(
    "entry", ["{}", "{}.jpg", "{}.xml", "{}  1", "JPEGImages/{}.jpg", "x\\{}.jpg"]
)
def test_split_by_lists_understands_the_entries_of_lists(entry: str, tmp_path: Path) -> None:
    stems = ["my photo 1", "my photo 2", "v1.0 b", "last"]
    root = write_voc(tmp_path, "Annotations", "JPEGImages", stems)
    lists = root / "ImageSets" / "Main"
    write_text(lists / "train.txt", "\n".join(map(entry.format, stems[:3])))
    write_text(lists / "val.txt", "\n".join(map(entry.format, stems[3:])))
    read = read_voc(root)
    names = {split: [Path(i.image).stem for i in images] for split, images in read.splits.items()}
    assert names == {"train": stems[:3], "validation": stems[3:]}
    assert not read.notes


def test_split_by_lists_names_what_is_not_read(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "Annotations", "JPEGImages")
    lists = root / "ImageSets" / "Main"
    write_text(lists / "train.txt", "a\nnowhere\n")
    write_text(lists / "cat_train.txt", "a 1\n")
    notes = read_voc(root).notes
    assert f"warning: {lists / 'train.txt'}: 1 of 2 entries have no .xml file ('nowhere')" in notes
    assert f"{lists}: lists not read: 1 (cat_train.txt)" in notes
    assert f"{lists}: .xml files in no list, not read: 2 (b, c)" in notes
    write_text(lists / "train.txt", "x\ny\n")
    with pytest.raises(DataError, match="2 of 2 entries have no .xml file .* correct the list"):
        read_voc(root)


def test_a_test_list_without_annotations_is_left_out_with_a_note(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "Annotations", "JPEGImages")
    save_picture(root / "JPEGImages" / "z.jpg")
    lists = root / "ImageSets" / "Main"
    write_text(lists / "train.txt", "a\nb\nc\n")
    write_text(lists / "test.txt", "z\n")
    assert list(read_voc(root).splits) == ["train"]
    _, notes = read_boxes(root, test=None)
    assert (
        f"not read: split test: {lists / 'test.txt'}: 1 of 1 entries have no .xml file ('z'); there"
        " are a, b, c"
    ) in notes
    write_text(lists / "val.txt", "z\n")
    assert "val.txt: 1 of 1 entries have no .xml file" in refusal(root, validation=None)


def test_read_voc_reports_a_missing_image_as_a_fault_of_its_row(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "annotations", "images")
    (root / "images" / "a.jpg").unlink()
    assert "images/a.jpg: image does not exist" in refusal(root)


def test_read_voc_turns_annotations_that_ignore_the_exif_orientation(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "annotations", "images")
    save_picture(root / "images" / "a.jpg", orientation=6)
    boxes, _ = read_boxes(root)
    assert boxes[0] == [("square", 17, 76, 31, 90)]
    write_text(root / "annotations" / "b.xml", xml_of("b.jpg", (48, 36)))
    assert "annotations/b.xml states 48 x 36 pixels, but the image has 96 x 72" in refusal(root)


def test_find_voc_leaves_xml_files_of_other_tools(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", NAMES)
    write_text(tmp_path / "annotations.xml", "<?xml version='1.0'?><annotations></annotations>")
    assert find_voc(tmp_path) == {}


def test_read_voc_refuses_entities(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "annotations", "images")
    bomb = '<!DOCTYPE l [<!ENTITY a "xx"><!ENTITY b "&a;&a;">]>' + xml_of("a.jpg")
    write_text(root / "annotations" / "a.xml", bomb.replace(">square<", ">&b;<"))
    with pytest.raises(DataError, match="declares the entity 'a', which annotations do not need"):
        read_voc(root)


def test_read_voc_refuses_deeply_nested_tags(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "annotations", "images")
    write_text(root / "annotations" / "a.xml", "<annotation>" + "<a>" * 200_000)
    with pytest.raises(DataError, match="nested more than 50 deep"):
        read_voc(root)


def test_read_voc_takes_images_from_a_folder_beside_the_source(tmp_path: Path) -> None:
    write_text(tmp_path / "set" / "Annotations" / "a.xml", xml_of("a.jpg"))
    save_picture(tmp_path / "photos" / "a.jpg")
    assert read_boxes(tmp_path / "set", images="../photos")[0] == EXPECTED[:1]


def test_images_are_told_apart_by_the_names_of_files_that_name_the_same(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg"])
    for stem in "ab":
        write_text(tmp_path / f"{stem}.xml", xml_of("a.jpg"))
    splits = open_set(ObjectDetection(), tmp_path)
    assert [Path(row["image"]).name for row in splits.train] == ["a.jpg", "b.jpg"]
    (tmp_path / "b.jpg").unlink()
    assert "its image is also annotated in a.xml" in refusal(tmp_path)


def test_lists_of_splits_are_read_beside_the_folders(tmp_path: Path) -> None:
    save_pictures(tmp_path / "JPEGImages", ["a.jpg", "b.jpg"])
    for stem in "ab":
        write_text(tmp_path / "Annotations" / f"{stem}.xml", xml_of(f"{stem}.jpg"))
    write_text(tmp_path / "train.txt", "a\n")
    write_text(tmp_path / "val.txt", "b\n")
    splits = open_set(ObjectDetection(), tmp_path, validation=None)
    assert {name: len(rows) for name, rows in splits.named.items()} == {"train": 1, "validation": 1}


def test_a_turned_box_is_the_box_around_it(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    turn = (
        "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    )
    corners = "<xmin>20</xmin><ymin>30</ymin><xmax>40</xmax><ymax>40</ymax>"
    turn += turn.replace("rotation", "name").replace("90.0", "Bob")
    content = f"<object><name>a</name>{turn}<bndbox>{corners}</bndbox></object>"
    write_text(tmp_path / "a.xml", f"<annotation>{content}</annotation>")
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("a", 25, 25, 35, 45)]]
    assert "turned boxes read as the boxes around them: 1" in notes
    numbers = "<cx>30</cx><cy>35</cy><w>20</w><h>10</h><angle>1.5707963</angle>"
    content = f"<object><name>a</name><robndbox>{numbers}</robndbox></object>"
    write_text(tmp_path / "a.xml", f"<annotation>{content}</annotation>")
    assert read_boxes(tmp_path)[0] == rows
