"""The contact sheet of `finetune inspect --draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.opening import open_splits
from finetune.inspection.contact_sheet import EPOCHS, GAP, LINE, ROWS
from tests.support.command_line import finetune as command_line
from tests.support.image_classifiers import set_up_classifier
from tests.support.lives import load
from tests.support.tiny_vision import SIZE


def test_inspect_draw_shows_the_images_that_training_reads(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "sheet.png"
    network = vision_networks["resnet"]
    words = ["task=image-classification", f"model={network}", f"data={shape_images}"]
    words += ["augmentation=medium", "mixup=1", "method=full", "batch_size=9"]
    assert command_line("inspect", *words, "--draw", str(path)) == 0
    assert f"contact sheet written to {path}" in capsys.readouterr().out
    loaded = load(tmp_path, network, shape_images, {"task": "image-classification"})
    task, _ = set_up_classifier(network)
    rows = open_splits(loaded.config.data, task).train
    with Image.open(path) as sheet:
        wide = SIZE * 4 + GAP  # small inputs are enlarged four times
        assert sheet.width == (EPOCHS + 1) * wide + GAP
        assert sheet.height == (ROWS + 2) * (SIZE * 4 + GAP + LINE) + 2 * LINE + GAP
        drawn = [
            sheet.crop((left, GAP + 2 * LINE, left + SIZE * 4, GAP + 2 * LINE + SIZE * 4))
            .resize((SIZE, SIZE), Image.Resampling.NEAREST)
            .tobytes()
            for left in range(GAP, sheet.width - GAP, wide)
        ]
    plain = {
        Image.fromarray(picture.pixels).tobytes()
        for row in rows
        for picture in task.views.pictures(task.collate([task.encode(row)]))
    }
    assert drawn[0] in plain
    assert len(set(drawn)) == len(drawn)  # every epoch is augmented differently


@pytest.mark.parametrize(
    ("name", "message"),
    [("sheet.xls", "unknown image format"), ("nowhere/sheet.png", "does not exist")],
)
def test_inspect_draw_rejects_an_unwritable_path_first(
    name: str, message: str, tmp_path: Path, capsys: Any
) -> None:
    words = ["task=image-classification", "model=none", "data=none"]
    assert command_line("inspect", *words, "--draw", str(tmp_path / name)) == 2
    assert message in capsys.readouterr().err
