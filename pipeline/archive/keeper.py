"""What becomes of the objects that an archive stores with us."""

import threading
from collections.abc import Iterable
from pathlib import Path

from pynetdicom import evt

from pipeline.archive.query import LEVELS, Instance
from pipeline.atomic import replacing


class Keeper:
    """Writes the objects that were asked for into a folder, byte by byte as they are sent.

    One at a time: an archive may send an object twice at once. pydicom's warnings, which quote
    values, are the caller's to keep quiet.
    """

    def __init__(self, folder: Path, wanted: Iterable[Instance]) -> None:
        self._folder, self._wanted = folder, {one.path for one in wanted}
        self._lock = threading.Lock()

    def store(self, event: evt.Event) -> int:
        """Answer to C-STORE (PS3.4 B.2.3); the object's UIDs are its path."""
        with self._lock:
            if not self._wanted:
                return 0xC000
            dataset = event.dataset
            instance = Instance(*(str(dataset.get(name, "")) for name in LEVELS.values()))
            if instance.path not in self._wanted:
                return 0xC000
            try:
                with replacing(self._folder / instance.path, "wb") as stream:
                    stream.write(event.encoded_dataset())
            except OSError:
                return 0xA700  # out of resources
            return 0x0000

    def has(self, instance: Instance) -> bool:
        """Say whether an object is there."""
        return (self._folder / instance.path).exists()

    def settle(self, instance: Instance, reason: str) -> str:
        """Empty for an object that is there; one that is not has this reason, and comes too late.

        It would otherwise count twice, as lost and as fetched.
        """
        with self._lock:
            if self.has(instance):
                return ""
            self._wanted.discard(instance.path)
            return reason

    def close(self) -> None:
        """Keep nothing any more; what is being written is written before this returns."""
        with self._lock:
            self._wanted.clear()
