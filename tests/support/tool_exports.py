"""Small exports of annotation tools with the object of `annotated_sets` in the image a.jpg."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.annotated_sets import (
    BOX,
    LINE,
    SIZE,
    coco_content,
    save_pictures,
    write_json,
    write_text,
)

LEFT, TOP, RIGHT, BOTTOM = BOX
WIDTH, HEIGHT = RIGHT - LEFT, BOTTOM - TOP
CORNERS = [[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]]


def shape(kind: str = "polygon", points: Any = CORNERS, label: Any = "square", **more: Any) -> Any:
    """Return a shape of labelme."""
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def labelme(shapes: list[Any], name: str = "a.jpg", **more: Any) -> dict[str, Any]:
    size = {"imageHeight": SIZE[1], "imageWidth": SIZE[0]}
    head = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name}
    return {**head, "imageData": None, **size, **more}


def png(values: Any, mode: str = "1") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


FULL = np.full((HEIGHT, WIDTH), 255, np.uint8)
POLYGON = f'<polygon label="square" points="{";".join(f"{x},{y}" for x, y in CORNERS)}"/>'


def cvat_image(shapes: str, name: str = "a.jpg", **more: str) -> str:
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    size = f'width="{SIZE[0]}" height="{SIZE[1]}"'
    return f'<image id="0" name="{name}" {size}{attributes}>{shapes}</image>'


def cvat(images: str, meta: str = "") -> str:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    return f"{head}<meta>{meta}</meta>\n{images}\n</annotations>"


def percents(points: Any = CORNERS) -> list[list[float]]:
    return [[x / SIZE[0] * 100, y / SIZE[1] * 100] for x, y in points]


def region(value: Any, kind: str = "rectanglelabels", **more: Any) -> dict[str, Any]:
    """Return a result of Label Studio; `more` replaces its keys."""
    size = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    head = {"id": "r1", "type": kind, "from_name": "label", "to_name": "image"}
    return {**head, **size, "value": value, **more}


def rectangle(labels: Any = ("square",), **more: Any) -> dict[str, Any]:
    (x, y), (right, _), (_, bottom), _ = percents()
    box = {"x": x, "y": y, "width": right - x, "height": bottom - y, "rotation": 0}
    return {**box, "rectanglelabels": list(labels), **more}


def polygon() -> dict[str, Any]:
    return {"points": percents(), "closed": True, "polygonlabels": ["square"]}


def studio_task(*results: Any, image: str = "a.jpg", number: int = 1, **more: Any) -> Any:
    annotation = {"id": 1, "was_cancelled": False, "result": list(results)}
    return {"id": number, "data": {"image": image}, "annotations": [annotation], **more}


def choice(number: int, texts: dict[str, Any], **choices: Any) -> dict[str, Any]:
    """Return a task of Label Studio with texts and choices."""
    results = [
        {"type": "choices", "from_name": name, "to_name": "text", "value": {"choices": chosen}}
        for name, chosen in choices.items()
    ]
    return {"id": number, "data": texts, "annotations": [{"result": results}] if choices else []}


def via_region(attributes: Any, **shape_attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape_attributes, "region_attributes": attributes}


VIA_BOX = {"name": "rect", "x": LEFT, "y": TOP, "width": WIDTH, "height": HEIGHT}
VIA_POLYGON = {
    "name": "polygon",
    "all_points_x": [x for x, _ in CORNERS],
    "all_points_y": [y for _, y in CORNERS],
}


def via(regions: Any, name: str = "a.jpg") -> dict[str, Any]:
    return {f"{name}12": {"filename": name, "size": 12, "regions": regions, "file_attributes": {}}}


def write_via_csv(path: Path, regions: list[Any]) -> Path:
    columns = "filename,file_size,file_attributes,region_count,region_id"
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow([*columns.split(","), "region_shape_attributes", "region_attributes"])
    for index, each in enumerate(regions):
        cells = [json.dumps(each[key]) for key in ("shape_attributes", "region_attributes")]
        writer.writerow(["a.jpg", 12, "{}", len(regions), index, *cells])
    return write_text(path, lines.getvalue())


def supervisely(objects: list[Any], *tags: str) -> dict[str, Any]:
    size = {"height": SIZE[1], "width": SIZE[0]}
    names = [{"name": tag, "value": None} for tag in tags]
    return {"description": "", "tags": names, "size": size, "objects": objects}


def figure(kind: str, exterior: Any, interior: Any = (), **more: Any) -> dict[str, Any]:
    """Return an object of Supervisely."""
    points = {"exterior": exterior, "interior": list(interior)}
    return {"classTitle": "square", "geometryType": kind, "tags": [], "points": points, **more}


def bitmap(mask: Any, left: int, top: int) -> dict[str, Any]:
    data = as_text(zlib.compress(png(mask)))
    return {
        "classTitle": "square",
        "geometryType": "bitmap",
        "bitmap": {"origin": [left, top], "data": data},
    }


CREATEML = [
    {
        "image": "a.jpg",
        "annotations": [
            {
                "label": "square",
                "coordinates": {
                    "x": (LEFT + RIGHT) / 2,
                    "y": (TOP + BOTTOM) / 2,
                    "width": WIDTH,
                    "height": HEIGHT,
                },
            }
        ],
    }
]
VOTT: dict[str, Any] = {
    "name": "shapes",
    "securityToken": "token",
    "tags": [{"name": "square", "color": "#ff0000"}],
    "assets": {
        "1a2b": {
            "asset": {
                "name": "a.jpg",
                "path": "file:/home/me/a.jpg",
                "size": {"width": SIZE[0], "height": SIZE[1]},
                "state": 2,
            },
            "regions": [
                {
                    "type": "RECTANGLE",
                    "tags": ["square"],
                    "boundingBox": {"left": LEFT, "top": TOP, "width": WIDTH, "height": HEIGHT},
                    "points": [{"x": x, "y": y} for x, y in CORNERS],
                }
            ],
        }
    },
}
SHARES = [LEFT / SIZE[0], TOP / SIZE[1], WIDTH / SIZE[0], HEIGHT / SIZE[1]]
FIFTYONE = {
    "classes": ["circle", "square"],
    "labels": {"a": [{"label": 1, "bounding_box": SHARES}]},
}
VIA_3 = {
    "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1"},
    "config": {},
    "attribute": {"1": {"aname": "class", "options": {"0": "circle", "1": "square"}}},
    "file": {"1": {"fid": "1", "fname": "a.jpg", "src": "a.jpg"}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {
        "1_x": {
            "vid": "1",
            "z": [],
            "xy": [7, *(value for point in CORNERS for value in point)],
            "av": {"1": "1"},
        }
    },
}
VOC = (
    "<annotation><filename>a.jpg</filename><size><width>96</width><height>72</height></size>"
    f"<object><name>square</name><bndbox><xmin>{LEFT}</xmin><ymin>{TOP}</ymin>"
    f"<xmax>{RIGHT}</xmax><ymax>{BOTTOM}</ymax></bndbox></object></annotation>"
)
TABLE = f"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,96,72,square,{LEFT},{TOP},90,55\n"
FILES: dict[str, dict[str, Any]] = {
    "coco": {"_annotations.coco.json": coco_content(["a.jpg"])},
    "yolo": {"a.txt": LINE + "\n", "data.yaml": "train: .\nnames: [circle, square]\n"},
    "voc": {"a.xml": VOC},
    "csv": {"_annotations.csv": TABLE},
    "labelme": {"a.json": labelme([shape(), shape("rectangle", [CORNERS[0], CORNERS[2]])])},
    "cvat": {"annotations.xml": cvat(cvat_image(POLYGON))},
    "label-studio": {
        "p.json": [studio_task(region(rectangle()), region(polygon(), "polygonlabels", id="r2"))]
    },
    "createml": {"_annotations.createml.json": CREATEML},
    "via": {"via.json": via([via_region({"class": "square"}, **VIA_POLYGON)])},
    "vott": {"shapes-export.json": VOTT},
    "fiftyone": {"labels.json": FIFTYONE},
    "supervisely": {
        "meta.json": {"classes": [{"title": "square"}], "tags": []},
        "ds/ann/a.jpg.json": supervisely([figure("polygon", CORNERS), bitmap(FULL, LEFT, TOP)]),
    },
}
"""The files of each format but its image."""


def write_export(folder: Path, name: str) -> Path:
    """Write an export of a tool, and its image."""
    save_pictures(folder / "ds" / "img" if name == "supervisely" else folder, ["a.jpg"])
    for file, content in FILES[name].items():
        write = write_text if isinstance(content, str) else write_json
        write(folder / file, content)
    return folder
