"""Objects of an application entity, one by one (PS3.4 C.4).

By C-GET they come back over the connection that asks for them, so that neither the archive's
configuration nor a firewall needs to know of us. By C-MOVE the archive connects to us, which it
does only with whom its configuration names.
"""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made while it is imported
    StudyRootQueryRetrieveInformationModelGet as GET,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as MOVE,
)

from pipeline.archive.address import DimseAddress
from pipeline.archive.keeper import Keeper
from pipeline.archive.line import LITTLE, WAITS, Line, NothingAccepted
from pipeline.archive.query import LEVELS, Instance, identifier
from pipeline.archive.receiver import Receiver
from pipeline.dicom.decoders import NATIVE, PLUGINS
from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError

Ask = Callable[[Association, Instance], str | None]
Fetched = Generator[tuple[Instance, str], None, None]
_UNKNOWN_DESTINATION = 0xA801  # PS3.4 C.4.2.1.5
_MOVE_INSTEAD = "if it offers C-MOVE, add --move-port PORT"
# Asked for where the archive does not say what an object is: at most 128 contexts fit (PS3.8).
_COMMON = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.CTImageStorage,
    uid.MRImageStorage,
    uid.SecondaryCaptureImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedCTImageStorage,
)


def by_get(
    address: DimseAddress, timeout: float, instances: Iterable[Instance], folder: Path
) -> Fetched:
    """Fetch by C-GET; see `pipeline.archive.transfer.Archive`."""
    by_class = sorted(instances, key=lambda one: (one.sop_class, one.path))
    for sop_class, group in groupby(by_class, key=lambda one: one.sop_class):
        classes = (sop_class,) if sop_class else _COMMON
        syntaxes = (*(NATIVE if sop_class else LITTLE), *PLUGINS)
        contexts = [build_context(one, [syntax]) for one in classes for syntax in syntaxes]
        roles = [build_role(one, scp_role=True) for one in classes]
        wanted = list(group)
        keeper = Keeper(folder, wanted)
        handlers = [(evt.EVT_C_STORE, keeper.store)]
        with Line(address, timeout, [build_context(GET), *contexts], roles, handlers) as line:
            try:
                yield from _each(line, wanted, keeper, _got)
            except NothingAccepted as error:
                raise DescryError(f"{error}; {_MOVE_INSTEAD}") from None


def by_move(
    address: DimseAddress, timeout: float, instances: Iterable[Instance], folder: Path
) -> Fetched:
    """Fetch by C-MOVE to our own title; see `pipeline.archive.transfer.Archive`."""
    wanted = sorted(instances, key=lambda one: one.path)
    if not wanted:
        return
    keeper = Keeper(folder, wanted)
    line = Line(address, timeout, [build_context(MOVE)])
    classes = {one.sop_class for one in wanted}
    receiver = Receiver(address, timeout, keeper, classes, line.silence)
    # Quiet here: what it changes is not a thread's own. The line ends first: an archive that still
    # sends what nobody waits for is not cut off in the middle.
    with quiet(), receiver, line:
        try:
            yield from _each(line, wanted, keeper, partial(_moved, line=line, receiver=receiver))
        except NothingAccepted as error:
            raise DescryError(f"{error}; if it offers C-GET, leave out --move-port") from None


def _each(line: Line, instances: Iterable[Instance], keeper: Keeper, ask: Ask) -> Fetched:
    """Ask for one object after the other; one at which the line breaks costs itself only."""
    broke_before = False
    for instance in instances:
        reason = line.tried(partial(_asked, instance=instance, keeper=keeper, ask=ask))
        if reason is None and broke_before:
            raise line.unreachable("it breaks the connection again and again")
        broke_before = reason is None
        broken = f"the connection breaks at this object, {len(WAITS)} attempts"
        yield instance, keeper.settle(instance, broken if reason is None else reason)


def _asked(association: Association, instance: Instance, keeper: Keeper, ask: Ask) -> str | None:
    """As `ask`, for what has not come along with another, or before the line broke."""
    return "" if keeper.has(instance) else ask(association, instance)


def _got(association: Association, instance: Instance) -> str | None:
    """Ask by C-GET: why the archive does not give an object, or None for a broken line."""
    try:
        code = _last(association.send_c_get(_named(instance), GET)).get("Status")
    except RuntimeError:  # the association has ended
        return None
    except ValueError:
        return f"the archive does not offer C-GET; {_MOVE_INSTEAD}"
    return None if code is None else f"not given (status {code:04X}H)"


def _moved(
    association: Association, instance: Instance, line: Line, receiver: Receiver
) -> str | None:
    """Ask by C-MOVE, as `_got`.

    Raises
    ------
    DescryError
        When the archive does not know where we are, or takes another place for ours.
    """
    title = line.address.own_title
    try:
        answer = _last(association.send_c_move(_named(instance), title, MOVE))
    except RuntimeError:  # the association has ended
        answer = Dataset()
    code, here = answer.get("Status"), association.requestor.address
    register = f"it has to know AE title {title} as host {here} (this one), port {receiver.port}"
    if code == _UNKNOWN_DESTINATION:
        raise line.unreachable(f"it does not find us (status A801H{receiver.doubt()}); {register}")
    promised = code == 0x0000 and answer.get("NumberOfCompletedSuboperations") != 0
    came, broke = receiver.brought(instance, promised), receiver.broke()
    if came:
        return ""
    if promised and receiver.doubt():
        raise line.unreachable(f"it says that it has sent an object{receiver.doubt()}; {register}")
    if code is None or promised or broke:
        return None
    return f"not given (status {code:04X}H{receiver.doubt()})"


def _last(answers: Iterable[tuple[Dataset, Dataset | None]]) -> Dataset:
    """The last answer, which has the final status; empty for a broken line."""
    with quiet():
        return list(answers)[-1][0]


def _named(instance: Instance) -> Dataset:
    uids = (instance.study, instance.series, instance.uid)
    return identifier("IMAGE", dict(zip(LEVELS.values(), uids, strict=True)))
