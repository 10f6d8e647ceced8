"""Reads the pipelines: lists of layers, outermost first, each a reference to an entry of its section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from resilience.config.document import LayerKind, LayerReference
from resilience.config.nodes import MappingNode, Node, ScalarNode
from resilience.config.references import Names, follow, name_in
from resilience.config.report import Report
from resilience.config.schema import LAYERS
from resilience.config.values import shown
from resilience.config.walk import dotted, found, items, named_members

Declared = Mapping[str, Names]
"""The names of the entries that a layer can refer to, by the kind of layer."""

Layers = tuple[LayerReference, ...]

_FORM = "a list of layers such as [{deadline: api}, {limiter: api}]"
_LAYER_FORM = "one layer such as {limiter: api}"


def read_pipelines(report: Report, node: Node, declared: Declared) -> dict[str, Layers]:
    """The layers of each pipeline by name, without those that have a problem, which is reported."""
    found = named_members(report, node, "pipelines")
    return {name: _read_layers(report, value, path, declared) for name, path, value in found}


def _read_layers(report: Report, node: Node, path: str, declared: Declared) -> Layers:
    listed = items(report, node, path, _FORM)
    if listed is None:
        return ()
    if not listed:
        message = "a pipeline needs a layer; to leave requests unguarded, a route says pipeline: none"
        report.problem(node.position, path, message)
    layers: dict[LayerReference, int] = {}
    for index, item in enumerate(listed):
        place = f"{path}[{index}]"
        layer = _read_layer(report, item, place, declared)
        if layer in layers:
            report.problem(
                item.position,
                place,
                f"{layer.kind} {shown(layer.name)} is in this pipeline already, at [{layers[layer]}]",
            )
        elif layer is not None:
            _check_one_retry(report, item, place, layer, layers)
            layers[layer] = index
    return tuple(layers)


def _check_one_retry(report: Report, node: Node, place: str, layer: LayerReference, before: Mapping[LayerReference, int]) -> None:
    for other, index in before.items():
        if layer.kind == other.kind == "retry":
            message = (
                f"a pipeline has one retry, and this one has retry {shown(other.name)} at [{index}]; their attempts would multiply"
            )
            report.problem(node.position, place, message)
            return


def _read_layer(report: Report, node: Node, place: str, declared: Declared) -> LayerReference | None:
    if not isinstance(node, MappingNode):
        report.problem(node.position, place, f"must be {_LAYER_FORM}, got {found(node)}")
        return None
    if len(node.pairs) != 1:
        report.problem(
            node.position,
            place,
            f"must be {_LAYER_FORM}, got a mapping of {len(node.pairs)} keys; each layer is an item of its own",
        )
        return None
    key, value = node.pairs[0]
    if not isinstance(key, ScalarNode) or key.is_null:  # reported by check_keys
        return None
    path = dotted(place, key.text)
    report.positions[path] = value.position
    section = LAYERS.get(key.text)
    if section is None:
        hint = report.did_you_mean(key.text, LAYERS) or f"; a layer is a {', '.join(LAYERS)}"
        report.problem(key.position, path, f"is unknown{hint}")
        return None
    name = name_in(report, value, path, f"the name of a {section.noun}")
    if name is None or not follow(report, value.position, path, name, declared[section.noun]):
        return None
    return LayerReference(cast(LayerKind, section.noun), name)
