"""Small workflows in the editor's format, one for each construct, made of classes that exist only here."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

Json = dict[str, Any]
NOW = datetime(2026, 3, 4, 5, 6, 7)  # noqa: DTZ001 - the editor writes the local time
"""The time in the editor, for dates in names of files."""
KINDS = {"IMAGE": "IMAGE", "MASK": "MASK", "MODEL": "MODEL", "LATENT": "LATENT"}


def _class(
    name: str, inputs: Json, outputs: Sequence[str], *, optional: Json | None = None, output: bool = False
) -> Json:
    groups = {"required": inputs, "optional": optional or {}}
    return {
        "input": groups,
        "input_order": {group: list(members) for group, members in groups.items()},
        "output": list(outputs),
        "output_is_list": [False for _ in outputs],
        "output_name": list(outputs),
        "name": name,
        "display_name": f"{name} (display)",
        "description": "",
        "python_module": "nodes",
        "category": "demo",
        "output_node": output,
    }


_FORMAT = {
    "options": [
        {"key": "png", "inputs": {"required": {"depth": ["INT", {"default": 8}]}}},
        {
            "key": "film",
            "inputs": {
                "required": {
                    "codec": [
                        "COMFY_DYNAMICCOMBO_V3",
                        {
                            "options": [
                                {"key": "copy", "inputs": {"required": {}}},
                                {"key": "encode", "inputs": {"required": {"quality": ["FLOAT", {"default": 0.5}]}}},
                            ]
                        },
                    ],
                    "sound": ["IMAGE", {}],
                }
            },
        },
    ]
}
_GROWN = {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 9}}
_NESTED_GROWN = {"key": "grow", "inputs": {"required": {"size": ["INT", {}], "images": ["COMFY_AUTOGROW_V3", _GROWN]}}}
WIDGETS: Mapping[str, tuple[str, Json]] = {
    "Box": ("BOUNDING_BOX", {}),
    "Boxes": ("BOUNDING_BOXES", {}),
    "Chart": ("CHART", {"data": {"labels": []}}),
    "Color": ("COLOR", {}),
    "Colors": ("COLORS", {}),
    "Compare": ("IMAGECOMPARE", {}),
    "Compositor": ("COMPOSITOR", {}),
    "Curve": ("CURVE", {}),
    "Gallery": ("GALLERIA", {}),
    "Lights": ("LIGHT_INFO_PREVIEW", {}),
    "Markdown": ("MARKDOWN", {}),
    "Mask": ("STRING", {"widgetType": "PAINTER", "image_upload": True, "default": "", "multiline": False}),
    "Many": ("COMBO", {"options": ["p", "q"], "multi_select": True}),
    "Painter": ("PAINTER", {}),
    "Player": ("AUDIO_UI", {}),
    "Range": ("RANGE", {}),
    "Resolution": ("RESOLUTION_PREVIEW", {}),
    "Stepped": ("FLOAT", {"control_after_generate": True}),
    "TextArea": ("TEXTAREA", {}),
    "Falsy": ("COMBO", {"options": ["p", "q"], "default": False}),
    "Big": ("INT", {"default": 9223372036854775807}),
    "Trim": ("VIDEO_EDIT", {"features": ["trim"]}),
}
"""The types of widgets beyond numbers and texts, each in a class of its own, between two numbers."""
_MATCHED = ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t", "allowed_types": "*"}}]
OBJECT_INFO: dict[str, Json] = {
    one["name"]: one
    for one in (
        _class("DemoSource", {}, ["MODEL", "IMAGE", "LATENT", "MASK"]),
        _class(
            "DemoSample",
            {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
                "sampler": [["euler", "heun"]],
                "scheduler": ["COMBO", {"options": ["normal", "simple"], "default": "simple"}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "fast": ["BOOLEAN", {"default": True}],
            },
            ["LATENT", "IMAGE"],
            optional={"latent": ["LATENT"], "extra": ["STRING", {"forceInput": True}]},
        ),
        _class("DemoFilter", {"mask": ["MASK"], "image": ["IMAGE"], "strength": ["FLOAT", {}]}, ["IMAGE", "MASK"]),
        _class("DemoMixed", {"n": ["INT", {}], "first": ["IMAGE"], "second": ["IMAGE"]}, ["IMAGE", "IMAGE"]),
        {
            **_class("DemoMatch", {"on": _MATCHED}, ["COMFY_MATCHTYPE_V3"], optional={"off": _MATCHED}),
            "output_matchtypes": ["t"],
        },
        _class("DemoAny", {"anything": ["*"]}, ["*"]),
        _class("DemoUnion", {"one": ["IMAGE,MASK"], "other": ["MODEL"]}, ["MASK"]),
        _class("DemoText", {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}]}, ["STRING"]),
        _class("DemoWord", {"word": ["STRING", {}], "count": ["INT", {"control_after_generate": True}]}, ["STRING"]),
        _class(
            "DemoFormat", {"images": ["IMAGE"], "format": ["COMFY_DYNAMICCOMBO_V3", _FORMAT], "last": ["INT", {}]}, []
        ),
        _class("DemoGrow", {"images": ["COMFY_AUTOGROW_V3", _GROWN], "size": ["INT", {"default": 3}]}, ["IMAGE"]),
        _class("DemoForced", {"forced": ["INT", {"forceInput": True}], "free": ["INT", {"default": 4}]}, ["INT"]),
        _class(
            "DemoChoice",
            {"pick": ["COMBO", {"options": ["a", "b"], "control_after_generate": True}], "after": ["INT", {}]},
            [],
        ),
        _class("DemoUpload", {"image": [["x.png"], {"image_upload": True}], "size": ["INT", {}]}, ["IMAGE"]),
        _class("DemoNested", {"model": ["COMFY_DYNAMICCOMBO_V3", {"options": [_NESTED_GROWN]}]}, []),
        _class(
            "Save3DAdvanced",
            {"filename_prefix": ["STRING", {}], "viewport_state": ["LOAD_3D", {}], "width": ["INT"], "height": ["INT"]},
            [],
            output=True,
        ),
        *(
            _class(f"Demo{name}", {"before": ["INT", {}], "it": [kind, options], "after": ["INT", {"default": 3}]}, [])
            for name, (kind, options) in WIDGETS.items()
        ),
        _class("DemoShow", {"image": ["*"]}, [], output=True),
        _class("DemoInt", {"value": ["INT", {"default": 1}]}, ["INT"]),
        _class("SaveImage", {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "out"}]}, [], output=True),
    )
}


class Draft:
    """A graph under construction: nodes, and links from (node, slot) to (node, input)."""

    def __init__(self, definition: Json | None = None) -> None:
        self.nodes: dict[int, Json] = {}
        self.links: list[Json] = []
        self._definition = definition

    def node(self, number: int, kind: str, values: Any = (), **members: Any) -> "Draft":
        about: Mapping[str, Any] = OBJECT_INFO.get(kind, {})
        outputs = members.pop("outputs", about.get("output", []))
        node: Json = {
            "id": number,
            "type": kind,
            "pos": [100 * number, 0],
            "size": [200, 100],
            "flags": {},
            "order": number,
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": one, "type": one, "links": []} for one in outputs],
            "properties": {},
            "widgets_values": list(values) if isinstance(values, tuple) else values,
        }
        self.nodes[number] = {**node, **members}
        return self

    def link(self, origin: int, slot: int, target: int, name: str, kind: str, *, widget: bool = False) -> "Draft":
        number = len(self.links) + 1
        position = 0
        if target == -20:
            assert self._definition is not None
            position = [one["name"] for one in self._definition["outputs"]].index(name)
            self._definition["outputs"][position]["linkIds"].append(number)
        else:
            inputs = self.nodes[target]["inputs"]
            position = len(inputs)
            inputs.append(
                {"name": name, "type": kind, "link": number, **({"widget": {"name": name}} if widget else {})}
            )
        if origin == -10:
            assert self._definition is not None
            self._definition["inputs"][slot]["linkIds"].append(number)
        else:
            self.nodes[origin]["outputs"][slot]["links"].append(number)
        members = (number, origin, slot, target, position, kind)
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        self.links.append(dict(zip(names, members, strict=True)))
        return self

    def document(self, *definitions: Json, objects: bool = False, **members: Any) -> Json:
        links: list[Any] = self.links if objects else [list(link.values()) for link in self.links]
        document = {
            "last_node_id": 100,
            "last_link_id": 100,
            "nodes": list(self.nodes.values()),
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        if definitions:
            document["definitions"] = {"subgraphs": list(definitions)}
        return {**document, **members}


def definition(number: int, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> tuple[Json, Draft]:
    """Return a subgraph definition and the draft of its inside; `seal` puts the inside in."""
    found: Json = {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": 100, "lastLinkId": 100, "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": f"Part {number}",
        "inputNode": {"id": -10, "bounding": [0, 0, 100, 100]},
        "outputNode": {"id": -20, "bounding": [900, 0, 100, 100]},
        "inputs": [_slot(number, 0, place, *one) for place, one in enumerate(inputs.items())],
        "outputs": [_slot(number, 1, place, *one) for place, one in enumerate(outputs.items())],
        "widgets": [],
        "groups": [],
        "extra": {},
    }
    return found, Draft(found)


def _slot(number: int, side: int, place: int, name: str, kind: str) -> Json:
    return {"id": f"00000000-0000-4000-9000-{number:06}{side:03}{place:03}", "name": name, "type": kind, "linkIds": []}


def seal(found: Json, draft: Draft) -> Json:
    return {**found, "nodes": list(draft.nodes.values()), "links": draft.links}


def cases() -> Iterator[tuple[str, Json]]:
    """Yield the workflows by name."""
    yield from _plain()
    yield from _hand_made_links()
    yield from _modes()
    yield from _virtual()
    yield from _values()
    yield from _widget_types()
    yield from _views()
    yield from _matched()
    yield from _named_widgets()
    yield from _quarantine()
    yield from _subgraphs()


SAMPLE = (7, "fixed", 30, "heun", "normal", 2.5, False)


def _base(**members: Any) -> Draft:
    return Draft().node(1, "DemoSource").node(2, "DemoSample", SAMPLE, **members).link(1, 0, 2, "model", "MODEL")


def _plain() -> Iterator[tuple[str, Json]]:
    yield "linked", _base().node(3, "SaveImage", ("pic",)).link(2, 1, 3, "images", "IMAGE").document()
    yield "title and pack", _base(title="Mine", properties={"cnr_id": "pack", "ver": "1.2", "aux_id": "a/b"}).document()
    yield "links as objects", _base().document(objects=True, version=1, state={"lastNodeId": 9, "lastLinkId": 9})
    linked = _base().node(3, "DemoInt", (11,)).link(3, 0, 2, "steps", "INT", widget=True)
    yield "linked widget", linked.document()
    yield "note", _base().node(5, "Note", ("read me",)).node(6, "MarkdownNote", ("# me",)).document()


def _hand_made_links() -> Iterator[tuple[str, Json]]:
    """Links that only one of their ends knows, as in files that no editor wrote."""

    def document() -> Json:
        draft = (
            Draft().node(1, "DemoSource").node(2, "DemoSource").node(3, "DemoMixed", (5,)).node(4, "SaveImage", ("p",))
        )
        draft.link(1, 1, 3, "first", "IMAGE").link(2, 1, 3, "second", "IMAGE")
        return draft.link(3, 0, 4, "images", "IMAGE").document()

    without = document()
    for node in without["nodes"]:
        node["inputs"] = []
    yield "links that no input names", without
    to_widget = document()
    to_widget["links"].append([9, 3, 1, 3, 2, "IMAGE"])
    yield "link to a widget's slot", to_widget
    competing = document()
    competing["links"].insert(0, [9, 2, 1, 3, 0, "IMAGE"])
    yield "links to the same slot", competing
    elsewhere = document()
    elsewhere["links"][0][3:5] = [4, 1]
    yield "link that ends elsewhere", elsewhere
    absent = document()
    absent["nodes"][3]["inputs"][0]["link"] = 55
    yield "name of a link that is absent", absent
    swapped = document()
    swapped["nodes"][2]["inputs"].reverse()
    yield "inputs in another order", swapped


def _modes() -> Iterator[tuple[str, Json]]:
    for mode, called in ((2, "muted"), (4, "bypassed")):
        chain = _base().node(3, "DemoFilter", (0.5,), mode=mode).node(4, "SaveImage", ("p",))
        chain.link(1, 3, 3, "mask", "MASK").link(2, 1, 3, "image", "IMAGE").link(3, 0, 4, "images", "IMAGE")
        yield f"{called} filter", chain.document()
        second = _base().node(3, "DemoFilter", (0.5,), mode=mode).node(4, "DemoUnion")
        second.link(1, 3, 3, "mask", "MASK").link(2, 1, 3, "image", "IMAGE").link(3, 1, 4, "one", "MASK")
        yield f"{called} second output", second.document()
        anything = _base().node(3, "DemoFilter", (0.5,), mode=mode).node(4, "DemoShow")
        anything.link(1, 3, 3, "mask", "MASK").link(2, 1, 3, "image", "IMAGE").link(3, 1, 4, "image", "*")
        yield f"{called} into any type", anything.document()
        sample = _base(mode=mode).node(3, "SaveImage", ("p",)).link(2, 1, 3, "images", "IMAGE")
        yield f"{called} without a matching input", sample.document()
        union = Draft().node(1, "DemoSource").node(2, "DemoUnion", mode=mode).node(3, "DemoFilter", (1,))
        union.link(1, 3, 2, "one", "MASK").link(2, 0, 3, "mask", "MASK")
        yield f"{called} union of types", union.document()
        for slot in (0, 1):
            for kind, sink, name in (("*", "DemoShow", "image"), ("IMAGE", "SaveImage", "images")):
                mixed = Draft().node(1, "DemoSource").node(2, "DemoSource").node(3, "DemoMixed", (5,), mode=mode)
                mixed.node(4, sink).link(1, 1, 3, "first", "IMAGE").link(2, 1, 3, "second", "IMAGE")
                yield (
                    f"{called} output {slot} after a widget into {kind}",
                    mixed.link(3, slot, 4, name, kind).document(),
                )
        widget = _base().node(3, "DemoInt", (5,), mode=mode).link(3, 0, 2, "steps", "INT", widget=True)
        yield f"{called} source of a widget", widget.document()


def _virtual() -> Iterator[tuple[str, Json]]:
    two = _base().node(3, "Reroute", outputs=["*"]).node(4, "Reroute", outputs=["*"]).node(5, "SaveImage", ("p",))
    two.link(2, 1, 3, "", "*").link(3, 0, 4, "", "*").link(4, 0, 5, "images", "IMAGE")
    yield "reroutes", two.document()
    loose = _base().node(3, "Reroute", outputs=["*"]).node(5, "SaveImage", ("p",)).link(3, 0, 5, "images", "IMAGE")
    yield "loose reroute", loose.document()
    for mode in (0, 2, 4):
        primitive = _base().node(3, "PrimitiveNode", (99, "randomize"), outputs=["INT"], mode=mode)
        yield f"primitive in mode {mode}", primitive.link(3, 0, 2, "steps", "INT", widget=True).document()
    through = _base().node(3, "PrimitiveNode", (98, "fixed"), outputs=["INT"]).node(4, "Reroute", outputs=["*"])
    yield (
        "primitive through a reroute",
        through.link(3, 0, 4, "", "*").link(4, 0, 2, "steps", "INT", widget=True).document(),
    )
    for is_replaced in (True, False):
        text = Draft().node(2, "DemoWord", ("x", 1, "fixed")).node(4, "DemoInt", (6,), title="Six")
        properties = {"Run widget replace on values": is_replaced}
        text.node(3, "PrimitiveNode", ("%Six.value%",), outputs=["STRING"], properties=properties)
        named = "primitive with placeholders" if is_replaced else "primitive without replacement"
        yield named, text.link(3, 0, 2, "word", "STRING", widget=True).document()
    muted = _base().node(3, "Reroute", outputs=["*"]).node(4, "DemoSource", mode=2).node(5, "SaveImage", ("p",))
    yield "reroute of a muted node", muted.link(4, 1, 3, "", "*").link(3, 0, 5, "images", "IMAGE").document()
    for mode in (2, 4):
        dead = _base().node(3, "Reroute", outputs=["*"], mode=mode).node(5, "SaveImage", ("p",))
        yield f"reroute in mode {mode}", dead.link(2, 1, 3, "", "*").link(3, 0, 5, "images", "IMAGE").document()


def _values() -> Iterator[tuple[str, Json]]:
    yield "missing tail", Draft().node(1, "DemoSample", (5, "fixed", 7)).document()
    yield "no values", Draft().node(1, "DemoSample", None).document()
    yield "array value", Draft().node(1, "DemoWord", ([1, 2], 3, "fixed")).document()
    yield "number in a text area", Draft().node(1, "DemoText", (12,)).node(2, "DemoText", (None,)).document()
    yield "dynamic prompt", Draft().node(1, "DemoText", ("a {b|b} // c\n{{x|x}|x} \\{d\\}",)).document()
    yield "control of a choice", Draft().node(1, "DemoChoice", ("b", "fixed", "filter", 6)).document()
    yield "place of a forced input", Draft().node(1, "DemoForced", (3, 9)).document()
    yield "forced input without a place", Draft().node(1, "DemoForced", (9,)).document()
    placeholders = (
        Draft().node(1, "DemoInt", (6,), title="Six").node(2, "SaveImage", ("%Six.value%-%Seven.value%-%x%",))
    )
    yield "placeholders", placeholders.document()
    for form in ("yyyy-MM-dd hh:mm:ss", "yy yyy yyyyy d M HH"):
        yield f"date {form}", Draft().node(1, "SaveImage", (f"%date:{form}%",)).document()
    for name, values in {
        "first option": ("png", 16, 5),
        "nested option": ("film", "encode", 0.9, 5),
        "nested option without parts": ("film", "copy", 5),
    }.items():
        yield name, Draft().node(1, "DemoFormat", values).document()
    grow = Draft().node(1, "DemoSource").node(2, "DemoGrow", (4,))
    grow.link(1, 1, 2, "images.image0", "IMAGE").link(1, 1, 2, "images.image1", "IMAGE")
    yield "growing input", grow.document()
    nested = Draft().node(1, "DemoSource").node(2, "DemoNested", ("grow", 4))
    nested.link(1, 1, 2, "model.images.image0", "IMAGE").link(1, 1, 2, "model.images.image1", "IMAGE")
    yield "growing input in an option", nested.document()
    yield "unknown option", Draft().node(1, "DemoFormat", ("webm", 16, 5)).document()
    yield "upload", Draft().node(1, "DemoUpload", ("x.png", 5, "image")).document()
    yield "texts of objects", Draft().node(1, "DemoText", ({"a": 1},)).node(2, "DemoText", ([1, [2, None]],)).document()


def _widget_types() -> Iterator[tuple[str, Json]]:
    for name in WIDGETS:
        draft = Draft().node(1, f"Demo{name}").node(2, f"Demo{name}", (7, 9)).node(3, f"Demo{name}", (7, "it", 9))
        draft.node(4, f"Demo{name}", (7, {"points": [[0, 0], [1, 1]]}, 8, 9)).node(5, f"Demo{name}", (7, [1, 2], 9))
        yield f"widget {name}", draft.node(6, f"Demo{name}", (7, None, 9)).document()


def _views() -> Iterator[tuple[str, Json]]:
    for name, camera in {
        "default": None,
        "wide angle": {"cameraType": "perspective", "fov": 60, "state": {"position": {"x": 1, "y": 2, "z": 3}}},
        "orthographic": {"cameraType": "orthographic", "fov": 35},
    }.items():
        properties = {"Camera Config": camera} if camera else {}
        yield (
            f"3D view, {name}",
            Draft().node(1, "Save3DAdvanced", ("p", "", 512, 1024), properties=properties).document(),
        )


def _matched() -> Iterator[tuple[str, Json]]:
    for mode in (0, 4):
        draft = Draft().node(1, "DemoSource").node(2, "DemoMatch", mode=mode).node(3, "DemoShow")
        draft.link(1, 3, 2, "on", "MASK").link(1, 1, 2, "off", "IMAGE").link(2, 0, 3, "image", "*")
        yield f"matched types in mode {mode}", draft.document()
    draft = Draft().node(1, "DemoSource").node(3, "SaveImage", ("p",)).link(1, 1, 3, "images", "IMAGE")
    bend = {"id": 1, "pos": [0, 0], "linkIds": [1]}
    yield "bent link", draft.document(extra={"reroutes": [bend], "linkExtensions": [{"id": 1, "parentId": 1}]})


def _named_widgets() -> Iterator[tuple[str, Json]]:
    """Placeholders that name nodes inside subgraphs, by the order of nodes, and nodes without a title."""
    first, inside = definition(1, {}, {})
    part = seal(first, inside.node(2, "DemoInt", (100,), title="X"))
    second, around = definition(2, {}, {})
    whole = seal(second, around.node(7, "DemoInt", (200,), title="Y").node(8, part["id"]))
    for order in ("RP", "PR", "WR", "RW"):
        draft = Draft()
        for place, letter in enumerate(order, start=11):
            kind, values = {"R": ("DemoInt", (1,)), "P": (part["id"], ()), "W": (whole["id"], ())}[letter]
            draft.node(place, kind, values, **({"title": "X"} if letter == "R" else {}))
        draft.node(20, "SaveImage", ("%X.value%-%Y.value%",))
        yield f"placeholders of nodes {order}", draft.document(*([part, whole] if "W" in order else [part]))
    null = Draft().node(1, "DemoWord", (None, 1, "fixed")).node(20, "SaveImage", ("a%DemoWord.word%b%DemoWord.no%",))
    yield "placeholder of null", null.document()


def _quarantine() -> Iterator[tuple[str, Json]]:
    found, inside = definition(1, {"seed": "INT"}, {})
    part = seal(found, inside.node(5, "DemoSample", SAMPLE).link(-10, 0, 5, "seed", "INT", widget=True))
    whole = {
        "originalEntry": ["-1", "seed"],
        "hostValue": 66,
        "reason": "missingSubgraphInput",
        "attemptedAtVersion": 1,
    }
    for name, entries in {
        "of the subgraph": [whole],
        "of a node": [{**whole, "originalEntry": ["5", "seed"]}],
        "without a reason": [whole, {"originalEntry": ["-1", "seed"], "hostValue": 5}],
        "twice": [whole, {**whole, "hostValue": 77}],
    }.items():
        properties = {"proxyWidgetErrorQuarantine": entries}
        yield f"quarantine {name}", Draft().node(2, part["id"], (5,), properties=properties).document(part)


def _subgraphs() -> Iterator[tuple[str, Json]]:
    found, inside = definition(1, {"model": "MODEL", "seed": "INT"}, {"IMAGE": "IMAGE"})
    inside.node(5, "DemoSample", SAMPLE).link(-10, 0, 5, "model", "MODEL").link(-10, 1, 5, "seed", "INT", widget=True)
    part = seal(found, inside.link(5, 1, -20, "IMAGE", "IMAGE"))
    for name, each in {"values of instances": ((1,), (2,)), "instances without values": ((), ())}.items():
        two = Draft().node(1, "DemoSource")
        for number, given in zip((2, 3), each, strict=True):
            two.node(number, part["id"], given, outputs=["IMAGE"]).link(1, 0, number, "model", "MODEL")
            two.node(number + 10, "SaveImage", (f"p{number}",)).link(number, 0, number + 10, "images", "IMAGE")
        yield name, two.document(part)
    for mode in (2, 4):
        skipped = Draft().node(1, "DemoSource").node(2, part["id"], (1,), outputs=["IMAGE"], mode=mode)
        skipped.node(3, "SaveImage", ("p",)).link(1, 0, 2, "model", "MODEL").link(2, 0, 3, "images", "IMAGE")
        yield f"instance in mode {mode}", skipped.document(part)
    fed = Draft().node(1, "DemoSource").node(2, part["id"], (1,), outputs=["IMAGE"]).node(4, "DemoInt", (77,))
    yield (
        "linked value of an instance",
        fed.link(1, 0, 2, "model", "MODEL").link(4, 0, 2, "seed", "INT", widget=True).document(part),
    )
    primitive = (
        Draft().node(2, part["id"], (1,), outputs=["IMAGE"]).node(4, "PrimitiveNode", (66, "fixed"), outputs=["INT"])
    )
    yield "primitive into an instance", primitive.link(4, 0, 2, "seed", "INT", widget=True).document(part)
    for name, proxies, values in (
        ("promoted by the old list", [["-1", "seed"], ["5", "steps"], ["5", "cfg"]], (4, 44, 4.5)),
        ("promoted without values", [["5", "steps"]], ()),
        ("promoted null", [["5", "steps"], ["5", "seed"]], (None, None)),
    ):
        old = (
            Draft()
            .node(1, "DemoSource")
            .node(2, part["id"], values, outputs=["IMAGE"], properties={"proxyWidgets": proxies})
        )
        yield name, old.link(1, 0, 2, "model", "MODEL").document(part)
    outer, around = definition(2, {"m": "MODEL", "s": "INT"}, {"I": "IMAGE"})
    around.node(8, part["id"], (5,), outputs=["IMAGE"]).link(-10, 0, 8, "model", "MODEL")
    around.link(-10, 1, 8, "seed", "INT", widget=True).link(8, 0, -20, "I", "IMAGE")
    whole = seal(outer, around)
    nested = Draft().node(1, "DemoSource").node(2, whole["id"], (55,), outputs=["IMAGE"]).node(3, "SaveImage", ("p",))
    nested.link(1, 0, 2, "m", "MODEL").link(2, 0, 3, "images", "IMAGE")
    yield "nested", nested.document(part, whole)
    for mode in (2, 4):
        inner = {**whole, "nodes": [{**whole["nodes"][0], "mode": mode}]}
        yield f"nested in mode {mode}", nested.document(part, inner)
    through, wire = definition(3, {"image": "IMAGE"}, {"image": "IMAGE"})
    wire.node(4, "Reroute", outputs=["*"]).link(-10, 0, 4, "", "*").link(4, 0, -20, "image", "IMAGE")
    passing = Draft().node(1, "DemoSource").node(2, through["id"], outputs=["IMAGE"]).node(3, "SaveImage", ("p",))
    passing.link(1, 1, 2, "image", "IMAGE").link(2, 0, 3, "images", "IMAGE")
    yield "instance that passes on", passing.document(seal(through, wire))
