"""Every node class of the lite engine, by name."""

from collections.abc import Mapping

from workers.lite.node import NodeClass
from workers.lite.nodes import animation, audio, faults, images, layout, masks, text, transforms, video


def node_classes(*, faults_too: bool = False) -> Mapping[str, NodeClass]:
    """The classes that this engine offers; those that fail on purpose only where asked for."""
    modules = (images, transforms, layout, masks, animation, video, audio, text, *((faults,) if faults_too else ()))
    return {node.name: node for module in modules for node in module.NODES}
