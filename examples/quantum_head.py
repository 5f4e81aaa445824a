"""Custom task: text classification by a dressed quantum circuit as the head of a frozen encoder.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}

    pip install 'finetune-kit[quantum]'
    finetune train task=examples/quantum_head.py:QuantumHead method=frozen data=DATA model=MODEL

The circuit of Mari et al., "Transfer learning in hybrid classical-quantum neural networks", Quantum
4, 340 (2020): a linear layer maps the pooled features to one angle per qubit, layers of CNOT gates
and trained rotations follow, and a linear layer reads the expected values. PennyLane simulates it
exactly, and gradients pass through the simulation. Measured beside the plain head with
`python benchmarks/other_heads.py`; docs/text-classification.md has the result.

Shapes: B rows, H features, Q qubits, D layers of gates, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import finetune as ft
import tasks
from tasks.backbones.vector_heads import HEAD_FILE
from tasks.text.text_models import load_pooled


class QuantumHeadConfig(tasks.TextClassificationConfig):
    """Keys of text classification, and the size of the circuit."""

    name: str = "examples/quantum_head.py:QuantumHead"
    qubits: int = 4
    """Number of simulated qubits; time and memory double with each."""
    depth: int = 6
    """Number of layers of gates."""


def make_circuit(qubits: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the circuit: angles [B, Q] and rotations [D, Q] -> expected values [B, Q]."""
    try:
        import pennylane as qml
    except ImportError as error:
        raise ft.ConfigError(
            "task: the simulator of the circuit is missing; pip install 'finetune-kit[quantum]'"
        ) from error

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method="backprop")
    def measure(angles: Tensor, rotations: Tensor) -> list[Any]:
        for wire in range(qubits):
            qml.Hadamard(wire)
            qml.RY(angles[:, wire], wires=wire)
        for layer in rotations:
            for first in (0, 1):
                for wire in range(first, qubits - 1, 2):
                    qml.CNOT(wires=[wire, wire + 1])
            for wire in range(qubits):
                qml.RY(layer[wire], wires=wire)
        return [qml.expval(qml.PauliZ(wire)) for wire in range(qubits)]

    return lambda angles, rotations: torch.stack(list(measure(angles, rotations)), dim=1)


class DressedCircuit(nn.Module):
    """Pooled features [B, H] -> logits [B, C], through a simulated quantum circuit."""

    def __init__(self, features: int, qubits: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.angles = nn.Linear(features, qubits)
        self.rotations = nn.Parameter(0.01 * torch.randn(depth, qubits))
        self.logits = nn.Linear(qubits, outputs)
        self._circuit = make_circuit(qubits)

    def forward(self, vectors: Tensor) -> Tensor:
        angles = torch.tanh(self.angles(vectors)) * (math.pi / 2)
        return self.logits(self._circuit(angles, self.rotations).float())


class QuantumHead(tasks.TextClassification):
    """Classification of texts by a simulated quantum circuit."""

    name = QuantumHeadConfig.model_fields["name"].default
    Config = QuantumHeadConfig

    def setup(self, train: Any, source: ft.ModelConfig, *, frozen: bool) -> list[str]:
        self.settle({"head": "pooled"})  # the head beside a bare encoder, which is replaced
        return super().setup(train, source, frozen=frozen)

    def build_model(self, source: ft.ModelConfig) -> ft.TransferModel:
        return self._with_circuit(super().build_model(source))

    def load_model(self, source: ft.ModelConfig) -> ft.TransferModel:
        model = self._with_circuit(load_pooled(source, self.pooling_, outputs=1))
        model.network.head.load_state_dict(load_file(Path(source.name) / HEAD_FILE))
        return model

    def _with_circuit(self, model: Any) -> Any:
        width, config = model.network.backbone.config.hidden_size, self.resolved_
        outputs = len(self.targets.names)
        model.network.head = DressedCircuit(width, config.qubits, config.depth, outputs)
        return model
