"""Tables with one box per line in the dialects of tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import ObjectDetection
from tasks.annotations.box_columns import find_box_columns
from tests.support.annotated_sets import (
    BOX,
    open_set,
    read_boxes,
    refusal,
    save_pictures,
    write_text,
)

NAMES = ("a.jpg", "b.jpg", "c.jpg")
EXPECTED = [[("square", *BOX)]] * 3
LEFT, TOP, RIGHT, BOTTOM = BOX
SHARES = f"{LEFT / 96},{TOP / 72},{RIGHT / 96},{BOTTOM / 72}"


def write_table(path: Path, header: str, line: str, images: Path | None = None) -> Path:
    """Write a table with a line per image; {} in the line is the name of the image."""
    save_pictures(images or path.parent, NAMES)
    lines = [header] * bool(header) + [line.format(name) for name in NAMES]
    return write_text(path, "\n".join(lines))


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "{},96,72,square,76,41,90,55"),
        ("image_path,xmin,ymin,xmax,ymax,label", "{},76,41,90,55,square"),
        ("image;label;x;y;w;h", "{};square;76,0;41,0;14,0;14,0"),
        ("img,category,x_center,y_center,width,height", "{},square,83,48,14,14"),
        ("file_name,bbox,name", '{},"[76, 41, 14, 14]",square'),
        ("file_name,bbox,name", "{},76 41 14 14,square"),
        (
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf",
            f"{{}},x,square,1,{LEFT / 96},{RIGHT / 96},{TOP / 72},{BOTTOM / 72},0",
        ),
        ("", "{},76,41,90,55,square"),
        ("", "TRAIN,gs://bucket/x/{},square," + SHARES.replace(",", ",", 1).replace(
            f",{RIGHT / 96}", f",,,{RIGHT / 96}") + ",,"),
    ],
)  # fmt: skip
def test_read_box_tables_knows_the_columns_of_tools(header: str, line: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "boxes.csv", header, line)
    # As corners and a size and as a center and a size, [76, 41, 14, 14] fits the image.
    keys = {"task": {"boxes": "xywh"}} if "bbox" in header else {}
    assert read_boxes(path, **keys)[0] == EXPECTED


def test_read_box_tables_settles_the_convention_of_a_cell_by_the_boxes(tmp_path: Path) -> None:
    line = '{},"[76, 41, 14, 14]",square'
    path = write_table(tmp_path / "boxes.csv", "image_id,bbox,class", line)
    assert "task.boxes: cannot detect the convention" in refusal(path)
    with path.open("a") as file:
        file.write('\na.jpg,"[4, 16, 24, 24]",square\n')
    boxes, notes = read_boxes(path)
    assert boxes[0] == [("square", *BOX), ("square", 4, 16, 28, 40)]
    assert "boxes: xywh, the only fit for the first 4 boxes" in notes


@pytest.mark.parametrize("images", ["images", "train", "training_images", "train/x"])
def test_read_box_tables_finds_images_in_folders_beside_the_table(
    images: str, tmp_path: Path
) -> None:
    header, line = "image,xmin,ymin,xmax,ymax,label", "{},76,41,90,55,square"
    path = write_table(tmp_path / "train.csv", header, line, tmp_path / images)
    for source in (path, tmp_path):
        assert read_boxes(source)[0] == EXPECTED


def test_read_box_tables_does_not_take_a_missing_image_from_another_folder(tmp_path: Path) -> None:
    header, line = "image,xmin,ymin,xmax,ymax,label", "{},76,41,90,55,square"
    path = write_table(tmp_path / "boxes.csv", header, line, tmp_path / "training_images")
    save_pictures(tmp_path / "other_images", ["z.jpg"])
    (tmp_path / "training_images" / "a.jpg").rename(tmp_path / "other_images" / "a.jpg")
    assert "1 of 3 rows is invalid:\n  a.jpg: image does not exist" in refusal(path)


def test_read_box_tables_reports_a_name_with_nul_as_a_fault_of_its_row(tmp_path: Path) -> None:
    header, line = "image,xmin,ymin,xmax,ymax,width,height,label", "{},76,41,90,55,96,72,square"
    path = write_table(tmp_path / "boxes.csv", header, line)
    write_text(path, path.read_text().replace("a.jpg", "a\0.jpg"))
    assert "it contains a NUL character" in refusal(path)


def test_read_box_tables_finds_images_by_ids_without_an_ending(tmp_path: Path) -> None:
    path = write_table(tmp_path / "train.csv", "image_id,x,y,w,h,class", "", tmp_path / "train")
    lines = [f"{name[0]},76,41,14,14,square" for name in NAMES]
    write_text(path, "\n".join(["image_id,x,y,w,h,class", *lines]))
    assert read_boxes(path)[0] == EXPECTED


def test_read_box_tables_says_that_there_is_one_class_without_a_column(tmp_path: Path) -> None:
    header, line = "image,source,xmin,ymin,xmax,ymax", "{},x,76,41,90,55"
    boxes, notes = read_boxes(write_table(tmp_path / "boxes.csv", header, line))
    assert boxes == [[("object", *BOX)]] * 3
    assert any("so all boxes are of one class, object" in note for note in notes)
    assert "boxes.csv: not read: columns source" in notes


def test_read_box_tables_reads_zeros_as_an_image_without_objects(tmp_path: Path) -> None:
    header, line = "image_path,xmin,ymin,xmax,ymax,label", "{},76,41,90,55,square"
    path = write_table(tmp_path / "boxes.csv", header, line)
    write_text(path, path.read_text().replace("b.jpg,76,41,90,55", "b.jpg,0,0,0,0"))
    boxes, notes = read_boxes(path)
    assert boxes == [*EXPECTED[:1], [], *EXPECTED[:1]]
    assert "boxes.csv: boxes 0, 0, 0, 0 mean an image without objects: 1" in notes


def test_read_box_tables_reads_splits_of_tables_folders_and_columns(tmp_path: Path) -> None:
    header, line = "image,xmin,ymin,xmax,ymax,label", "{},76,41,90,55,square"
    for split in ("train", "valid"):
        write_table(tmp_path / "robo" / split / "_annotations.csv", header, line)
        write_table(tmp_path / "vott" / f"{split}_labels.csv", header, line)
    write_table(tmp_path / "one.csv", f"{header},split", f"{line},train")
    write_text(
        tmp_path / "one.csv", (tmp_path / "one.csv").read_text() + "\nb.jpg,1,2,30,40,square,val"
    )
    for source in (tmp_path / "robo", tmp_path / "vott", tmp_path / "one.csv"):
        boxes, notes = read_boxes(source, validation=None)
        assert boxes == EXPECTED
        assert any(note.startswith("validation: split 'validation'") for note in notes)


def test_read_box_tables_checks_the_sizes_that_a_table_states(tmp_path: Path) -> None:
    header, line = "image,width,height,x,y,w,h,label", "{},192,144,152,82,28,28,square"
    header = header.replace("x,y,w,h", "xmin,ymin,xmax,ymax")
    line = line.replace("152,82,28,28", "152,82,180,110")
    path = write_table(tmp_path / "boxes.csv", header, line)
    assert "states 192 x 144 pixels, but the image has 96 x 72 pixels" in refusal(path)
    assert read_boxes(path, rescale=True)[0] == EXPECTED


def test_find_box_columns_leaves_other_tables() -> None:
    for line in ("text,label", "image,label", "image,x,y,label", "1.jpg,cat", "1.jpg,a,b,c,d,cat"):
        assert find_box_columns(line.split(",")) is None


def test_read_box_tables_takes_images_from_data_images(tmp_path: Path) -> None:
    header, line = "image,xmin,ymin,xmax,ymax,label", "{},76,41,90,55,square"
    for folder in ("one", "two"):
        path = write_table(tmp_path / "t" / "boxes.csv", header, line, tmp_path / folder)
    task = ObjectDetection()
    rows = open_set(task, path, images=str(tmp_path / "two")).train
    assert {Path(row["image"]).parent for row in rows} == {tmp_path / "two"}
    assert "data.images: folder 'nowhere' not found" in refusal(path, images="nowhere")


def write_open_images(root: Path, classes: str) -> None:
    """Write the folders of OpenImages: tables in annotations/, a folder of images a split."""
    header = "ImageID,Source,LabelName,Confidence,XMin,YMin,XMax,YMax\n"
    for split, name in (("train", "a"), ("validation", "b"), ("test", "c")):
        save_pictures(root / "images" / split, [f"{name}.jpg"])
        table = root / "annotations" / f"{split}-annotations-bbox.csv"
        write_text(table, f"{header}{name},x,/m/0,1,{SHARES}\n")
    save_pictures(root / "images" / "train", ["z.jpg"])
    write_text(root / "annotations" / "train-annotations-human-imagelabels.csv", "ImageID\na\n")
    write_text(root / "annotations" / "oidv6-class-descriptions.csv", classes)


def test_read_box_tables_reads_the_folders_of_open_images(tmp_path: Path) -> None:
    write_open_images(tmp_path, "LabelName,DisplayName\n/m/0,square\n")
    splits = open_set(ObjectDetection(), tmp_path, validation=None, test=None)
    files = {
        split: [Path(row["image"]).name for row in rows] for split, rows in splits.named.items()
    }
    assert files == {"train": ["a.jpg"], "validation": ["b.jpg"], "test": ["c.jpg"]}
    assert "images that no line names, not read: 1 (z.jpg)" in splits.notes
    not_read = f"{tmp_path / 'annotations'}: not read: train-annotations-human-imagelabels.csv"
    assert not_read in splits.notes
    rows, _ = read_boxes(tmp_path / "annotations" / "test-annotations-bbox.csv")
    assert rows == EXPECTED[:1]


def test_read_box_tables_reads_open_images_as_fiftyone_writes_it(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("validation", "b")):
        save_pictures(tmp_path / split / "data", [f"{name}.jpg"])
        table = f"ImageID,LabelName,XMin,YMin,XMax,YMax\n{name},/m/0,{SHARES}\n"
        write_text(tmp_path / split / "labels" / "detections.csv", table)
        write_text(tmp_path / split / "metadata" / "classes.csv", "/m/0,square\n")
    splits = open_set(ObjectDetection(), tmp_path, validation=None)
    assert {name: len(rows) for name, rows in splits.named.items()} == {"train": 1, "validation": 1}
    assert read_boxes(tmp_path)[0] == EXPECTED[:1]


def test_codes_of_classes_without_a_name_are_named(tmp_path: Path) -> None:
    write_open_images(tmp_path, "LabelName,DisplayName\n/m/1,square\n")
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("/m/0", *BOX)]]
    assert any("oidv6-class-descriptions.csv; it has none for /m/0" in note for note in notes)


def test_names_of_classes_are_taken_where_another_column_has_their_numbers(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg"])
    box = ",".join(map(str, BOX))
    head = "image,class,label,xmin,ymin,xmax,ymax"
    write_text(tmp_path / "a.csv", f"{head}\na.jpg,0,cat,{box}\nb.jpg,1,dog,{box}\n")
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("cat", *BOX)], [("dog", *BOX)]]
    assert "a.csv: classes are those of column label; class has their numbers" in notes
    write_text(tmp_path / "a.csv", f"{head}\na.jpg,pet,cat,{box}\nb.jpg,pet,dog,{box}\n")
    assert "the columns class and label may both be the class" in refusal(tmp_path)


def test_lines_of_a_class_without_any_box_are_images_without_objects(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg"])
    head, box = "image_id,class_name,x_min,y_min,x_max,y_max", ",".join(map(str, BOX))
    write_text(tmp_path / "a.csv", f"{head}\na,cat,{box}\nb,No finding,,,,\n")
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("cat", *BOX)], []]
    assert any("lines of 'No finding', none with a box" in note for note in notes)
    write_text(tmp_path / "a.csv", f"{head}\na,cat,{box}\nb,cat,,,,\n")
    assert "a.csv:3: has no box" in refusal(tmp_path)


def test_the_size_of_the_image_is_not_taken_for_that_of_a_box(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    left, top, right, bottom = BOX
    rest = f"96,72,{left},{top}"
    write_text(tmp_path / "a.csv", f"image,width,height,x,y,label\na.jpg,{rest},cat\n")
    message = refusal(tmp_path)
    assert "has the width and height of the image instead of its own" in message
    assert "try task.boxes" not in message
    head = "image,width,height,x,y,bbox_width,bbox_height,label"
    write_text(tmp_path / "a.csv", f"{head}\na.jpg,{rest},{right - left},{bottom - top},cat\n")
    assert read_boxes(tmp_path)[0] == [[("cat", *BOX)]]
