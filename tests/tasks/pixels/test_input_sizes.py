"""The default size of the input, by the sizes of images and objects."""

from __future__ import annotations

from tasks.pixels.input_sizes import fit_input, fit_square


def test_small_images_are_not_enlarged_to_the_usual_size() -> None:
    size, reason = fit_input([(96, 128)] * 9 + [(90, 100)], (224, 224))
    assert size == (96, 128)
    assert "96 x 128" in reason
    assert "4.1 times" in reason
    assert "task.image_size" in reason


def test_large_images_take_the_usual_size() -> None:
    assert fit_input([(600, 400)] * 5, (224, 224)) == ((224, 224), "")
    assert fit_square([(600, 400)] * 5, 512, [50.0]) == (512, "")


def test_sizes_are_multiples_of_the_stride_and_never_too_small() -> None:
    assert fit_input([(100, 161)] * 3, (224, 224))[0] == (128, 192)
    assert fit_input([(28, 28)], (224, 224))[0] == (64, 64)


def test_few_outliers_do_not_decide() -> None:
    sizes = [(128, 128)] * 95 + [(2000, 2000)] * 5
    assert fit_input(sizes, (512, 512))[0] == (128, 128)


def test_small_objects_are_enlarged_up_to_the_usual_size() -> None:
    large, reason = fit_square([(128, 96)] * 10, 512, [40.0] * 100)
    assert large == 128
    assert "enlarged" not in reason
    small, reason = fit_square([(128, 96)] * 10, 512, [8.0] * 20 + [40.0] * 80)
    assert small == 256
    assert "8 pixels" in reason
    assert fit_square([(128, 96)] * 10, 512, [2.0] * 100)[0] == 512


def test_images_without_objects_keep_their_size() -> None:
    assert fit_square([(64, 64)], 512, [])[0] == 64
