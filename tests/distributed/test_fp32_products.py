"""Linear layers by oneDNN: equal outputs, and only where they are meant."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear

from finetune.distributed.fp32_products import OneDnnLinear, fast_products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch has no oneDNN",
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 7, 24), (2, 3, 5, 24)])
def test_onednn_linear_has_the_outputs_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = Linear(24, 40, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        expected = layer(rows)
        with OneDnnLinear():
            torch.testing.assert_close(layer(rows), expected, rtol=1e-5, atol=1e-5)


def test_onednn_linear_reads_views() -> None:
    layer, rows = Linear(24, 40), torch.randn(24, 9)
    with torch.inference_mode():
        expected = layer(rows.T)
        with OneDnnLinear():
            torch.testing.assert_close(layer(rows.T), expected, rtol=1e-5, atol=1e-5)


def test_onednn_linear_leaves_training_alone() -> None:
    layer, rows = Linear(24, 40), torch.randn(8, 24)
    with OneDnnLinear():
        outputs = layer(rows)
    assert torch.equal(outputs, layer(rows))
    outputs.sum().backward()
    assert layer.weight.grad is not None


def test_onednn_linear_leaves_autocast_alone() -> None:
    layer, rows = Linear(24, 40), torch.randn(8, 24)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), OneDnnLinear():
        assert layer(rows).dtype == torch.bfloat16


def test_onednn_linear_leaves_faults_to_torch() -> None:
    with (
        torch.inference_mode(),
        OneDnnLinear(),
        pytest.raises(RuntimeError, match="cannot be multiplied"),
    ):
        Linear(24, 40)(torch.randn(8, 23))


def test_onednn_linear_of_no_rows_is_empty() -> None:
    with torch.inference_mode(), OneDnnLinear():
        assert Linear(24, 40)(torch.randn(0, 24)).shape == (0, 40)


def test_fast_products_are_for_the_cpu_alone() -> None:
    with fast_products(torch.device("meta")) as mode:
        assert mode is None
