"""The whole comparison: one engine, every graph checked by both sides, and the model-free graphs run by both."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from storage.jobs.record import JobRecord
from tests.compare.engine import RealEngine, spec
from tests.compare.files import Folders, Listing, content, input_files, listing, placeholders, probes
from tests.compare.graphs import NamedGraph, changes
from tests.compare.ours import Ours, RecordingHost
from tests.compare.running import Runs, without_models
from tests.compare.table import Compared
from workers.comfy.process import EngineProcess


@dataclass(frozen=True, slots=True)
class Options:
    """`directory` is None to compare the lite engine; `limit_s` is 0 to run nothing."""

    base: Path
    directory: Path | None = None
    python: Path | None = None
    arguments: tuple[str, ...] = ()
    with_placeholders: bool = True
    limit_s: int = 20


class Comparison:
    """Runs the comparison. It starts the engine twice, because some custom nodes list their models only at import."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._host = EngineProcess(spec(options.directory, options.python, options.base, options.arguments))
        self._real = RealEngine(self._host)
        self._contents: dict[str, bytes] = {}

    async def run(self, graphs: Sequence[NamedGraph]) -> list[Compared]:
        ours = Ours("own")
        worker = ours.worker(self._host)
        try:
            await self._host.start()
            lists = await self._listing(graphs)
            await self._host.stop()
            await worker.start()
            compared = await self._checked(graphs, lists)
            if self._options.limit_s:
                await self._ran(
                    graphs, compared, lists, Runs(self._host, self._real, ours, worker, self._options.limit_s)
                )
            return compared
        finally:
            await ours.close()
            await self._real.close()
            await self._host.stop()

    async def _listing(self, graphs: Sequence[NamedGraph]) -> Listing:
        """Return the folder that each input lists, and create the placeholders."""
        base = self._options.base
        folders = Folders(base / "engine" / "input", await self._real.model_folders())
        with _made(dict.fromkeys(probes(folders, base), b"")):
            lists = listing(await self._host.engine.object_info())
        if self._options.with_placeholders:
            for path in placeholders(graphs, lists, folders, base):
                _make(path, b"")
        return lists

    def _media(self, graph: NamedGraph, lists: Listing) -> dict[str, bytes]:
        return {name: self._content(name) for name in input_files(graph, lists)}

    def _content(self, name: str) -> bytes:
        suffix = Path(name).suffix.lower()
        if suffix not in self._contents:
            self._contents[suffix] = content(name)
        return self._contents[suffix]

    async def _checked(self, graphs: Sequence[NamedGraph], lists: Listing) -> list[Compared]:
        engine = self._host.engine
        recording = RecordingHost(self._host, await engine.declarations(), await engine.system_stats())
        own, strangers = Ours("own"), Ours("strangers")
        worker = own.worker(recording)
        await worker.start()
        await strangers.worker(recording).start()
        compared = []
        for position, graph in enumerate(graphs):
            _say(f"checking {position + 1}/{len(graphs)} {graph.name}")
            media = self._media(graph, lists)
            with _made({self._options.base / "engine" / "input" / name: body for name, body in media.items()}):
                said = await self._real.check(graph.document)
            one = Compared(
                graph.name, said, await own.check(graph, media), await strangers.check(graph, media), frozenset(media)
            )
            if one.own.says == "accepted":
                await self._record(one, graph, recording, await own.run(worker))
            compared.append(one)
        await own.close()
        await strangers.close()
        return compared

    @staticmethod
    async def _record(one: Compared, graph: NamedGraph, host: RecordingHost, record: JobRecord) -> None:
        """Record the graph that reached the engine and the outputs that are to run."""
        sent, host.engine.sent = host.engine.sent, None
        if sent is None:
            one.worker = str(record.error)
            return
        outputs = host.outputs(graph)
        one.own = replace(one.own, runs=outputs - one.own.without)
        one.changes = changes(graph.document, sent.graph, len(outputs), {medium.name for medium in record.input_files})

    async def _ran(
        self, graphs: Sequence[NamedGraph], compared: Sequence[Compared], lists: Listing, both: Runs
    ) -> None:
        info = await self._host.engine.object_info()
        for graph, one in zip(graphs, compared, strict=True):
            runs = one.own.runs if one.real.says == "accepted" and not one.worker else None
            part = without_models(graph, runs, info, lists) if runs else None
            if part is not None:
                _say(f"running {graph.name}")
                outcome, one.differences = await both.compare(part, self._media(part, lists))
                one.outputs = outcome or None


@contextmanager
def _made(files: Mapping[Path, bytes]) -> Iterator[None]:
    """Create files while the context is open; an engine lists its folders anew each time."""
    made = [path for path, body in files.items() if _make(path, body)]
    try:
        yield
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _make(path: Path, body: bytes) -> bool:
    """Create a file; return False if the system does not allow its name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(body)
    except OSError:
        return False
    return True


def _say(what: str) -> None:
    sys.stderr.write(f"\r\033[K{what[:100]}" if sys.stderr.isatty() else f"{what}\n")
    sys.stderr.flush()
