"""Files in and out by /upload/image and /view, and all queries of the history."""

import uuid

from tests.conformance.graphs import basic, colour, empty_image, node, save
from tests.conformance.scenarios import Book
from tests.conformance.scenarios.outputs import png
from tests.conformance.traffic import Traffic

BOOK = Book()


@BOOK.add()
async def s60_upload(traffic: Traffic) -> None:
    first, other = png(colour=(1, 2, colour() & 255)), png(colour=(9, 9, colour() & 255))
    name = f"up_{colour()}.png"
    await _same_name(traffic, first, other, name)
    await _places(traffic, first, name)
    await traffic.upload(first, name, "wrong field name", field="file")
    await traffic.upload(first, "", "empty filename")
    await traffic.upload(first, "ünï cödé %20.png", "unicode name", overwrite="true")
    await traffic.post("/upload/image", {}, "JSON body")
    await traffic.run(
        {
            "1": node("LoadImage", image=f"sub/dir/s_{name}"),
            "2": node("LoadImage", image=f"t_{name} [temp]"),
            "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
            "4": node("PreviewImage", images=["3", 0]),
        }
    )
    await traffic.get(f"/view?filename=s_{name}&subfolder=sub/dir&type=input")


async def _same_name(traffic: Traffic, first: bytes, other: bytes, name: str) -> None:
    await traffic.upload(first, name, "first")
    await traffic.upload(first, name, "same name, same bytes: dedupe -> same name")
    await traffic.upload(other, name, "same name, other bytes, no overwrite -> name (1)")
    await traffic.upload(other, name, "again -> dedupes against (1)")
    await traffic.upload(other, name, "overwrite=true", overwrite="true")
    await traffic.upload(other, name, "overwrite=1", overwrite="1")
    await traffic.upload(other, name, "overwrite=True is NOT honoured", overwrite="True")


async def _places(traffic: Traffic, content: bytes, name: str) -> None:
    await traffic.upload(content, f"s_{name}", "subfolder is created", subfolder="sub/dir")
    await traffic.upload(content, f"t_{name}", "type=temp", type="temp")
    await traffic.upload(content, f"o_{name}", "type=output", type="output")
    await traffic.upload(content, f"x_{name}", "unknown type", type="nonsense")
    await traffic.upload(content, "../evil.png", "path traversal in the filename")
    await traffic.upload(content, "e.png", "path traversal in the subfolder", subfolder="../../x")
    await traffic.upload(content, f"a/b_{name}", "slash in the filename")
    await traffic.upload(b"hello", f"notes_{name}.txt", "not an image: accepted")


@BOOK.add()
async def s61_view(traffic: Traffic) -> None:
    history = await traffic.run({"1": empty_image(64, height=48), "2": save("1", "rec/view/deep")})
    entry = history["outputs"]["2"]["images"][0]
    file, folder = entry["filename"], entry["subfolder"]
    path = f"/view?filename={file}&subfolder={folder}&type=output"
    await _variants(traffic, path)
    await traffic.get(f"/view?filename={file}&type=output", "without subfolder")
    note = "subfolder inside filename: basename is taken -> 404"
    await traffic.get(f"/view?filename={folder}/{file}&type=output", note)
    await _refused(traffic)
    await traffic.get(f"/view?filename={file} [output]&subfolder={folder}", "annotated name")
    await traffic.call("HEAD", path, "HEAD")
    await traffic.get(path, "range", headers={"Range": "bytes=0-9"})
    late = {"If-Modified-Since": "Fri, 31 Dec 2099 23:59:59 GMT"}
    await traffic.get(f"{path}&rand=1", "conditional", headers=late)
    await traffic.call("OPTIONS", path, "OPTIONS")
    await traffic.get(f"/api{path}", "/api prefix")
    foreign = {"Origin": "http://evil.example"}
    await traffic.get(path, "foreign Origin on loopback", headers=foreign)
    elsewhere = {**foreign, "Host": "comfy.internal:8188"}
    await traffic.get(path, "foreign Origin, Host not loopback", headers=elsewhere)


async def _variants(traffic: Traffic, path: str) -> None:
    await traffic.get(path, "plain")
    await traffic.get(f"{path}&preview=webp;50", "re-encoded")
    await traffic.get(f"{path}&preview=jpeg")
    await traffic.get(f"{path}&preview=png", "falls back to webp")
    await traffic.get(f"{path}&channel=rgb", "re-encoded PNG")
    await traffic.get(f"{path}&channel=a", "alpha only")
    await traffic.get(f"{path}&channel=x", "unknown channel")


async def _refused(traffic: Traffic) -> None:
    await traffic.get("/view?filename=nope.png", "missing file")
    await traffic.get("/view", "no filename")
    await traffic.get("/view?filename=../x.png", "..")
    await traffic.get("/view?filename=/etc/passwd", "absolute")
    await traffic.get("/view?filename=x.png&subfolder=../../", "subfolder outside")
    await traffic.get("/view?filename=x.png&type=nonsense", "unknown type")


@BOOK.add()
async def s62_history_api(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    prompts = []
    for _ in range(3):
        prompts.append(await traffic.submit(basic("rec/h"), client_id))
        await socket.until_end(prompts[-1])
    for query in ("max_items=2", "max_items=0", "max_items=abc", "offset=1000000"):
        await traffic.get(f"/history?{query}", listing=True)
    await traffic.get("/history/unknown-id", "unknown: 200 {}")
    await traffic.post("/history", {"delete": prompts[:1]})
    await traffic.history(prompts[0])
    await traffic.post("/history", {"delete": ["unknown"]})
    await traffic.history(prompts[2])
