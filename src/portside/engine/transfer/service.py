"""The transfers of one namespace: which pair of objects is which work (core/transfer.py)."""

from __future__ import annotations

from dataclasses import dataclass

from portside.core.services import Services
from portside.core.transfer import (
    ImageExportStream,
    ImageImportStream,
    ImageStore,
    OCIRegistry,
    ProgressCallback,
    ReadStream,
    Snapshot,
    TransferObject,
    WriteStream,
)
from portside.engine.streaming import LocalStreaming, StreamManager
from portside.engine.transfer.config import TransferConfig
from portside.errors import Unimplemented
from portside.metadata.store import Metadata


@dataclass(frozen=True, slots=True)
class Transfers:
    """What all services of an engine share; None: the plugin is disabled or did not come up."""

    streams: StreamManager | None = None
    config: TransferConfig | None = None

    def streaming(self, metadata: Metadata, namespace: str, lease: str) -> LocalStreaming:
        """The streams of a namespace; Unimplemented."""
        if self.streams is None:
            raise Unimplemented("streaming: the plugin io.containerd.streaming.v1.manager is not there")
        return LocalStreaming(self.streams, metadata, namespace, lease)

    def transfer(self, services: Services) -> LocalTransfer:
        """The transfers of a namespace; Unimplemented."""
        if self.config is None:
            raise Unimplemented("transfer: the plugin io.containerd.transfer.v1.local is not there")
        return LocalTransfer(services, self.config)

    def close(self) -> None:
        """End all streams."""
        if self.streams is not None:
            self.streams.close()


class LocalTransfer:
    """core/transfer.TransferService over ``services``; costs nothing to make."""

    def __init__(self, services: Services, config: TransferConfig) -> None:
        self._services, self._config = services, config

    async def transfer(
        self, source: TransferObject, destination: TransferObject, progress: ProgressCallback | None = None
    ) -> None:
        """Do it; Unimplemented for a pair that cannot be."""
        # Imported by the first transfer: an engine that does none is the smaller for it.
        from portside.engine.transfer import archives, images, layers
        from portside.engine.transfer.progress import Teller

        services, config, tell = self._services, self._config, Teller(progress)
        match source, destination:
            case OCIRegistry(), ImageStore():
                await images.pull(services, source, destination, config, tell)
            case ImageStore(), OCIRegistry():
                await images.push(services, source, destination, config, tell)
            case ImageStore(), ImageStore():
                await images.tag(services, source, destination)
            case OCIRegistry(), OCIRegistry():
                await images.mirror(source, destination, config, tell)
            case ImageImportStream(), ImageStore():
                await archives.import_archive(services, source, destination, config, tell)
            case ImageStore(), ImageExportStream():
                await archives.export_archive(services, source, destination, tell)
            case ImageImportStream(), ImageExportStream():
                await archives.echo(source, destination)
            case ReadStream(), Snapshot():
                await layers.unpack_layer(services, source, destination, tell)
            case Snapshot(), WriteStream():
                await layers.read_layer(services, source, destination, tell)
            case _:
                kinds = type(source).__name__, type(destination).__name__
                raise Unimplemented(f"transfer from {kinds[0]} to {kinds[1]}: there is no such transfer")
