"""What a thief of a whole server can do where all of its keys lie in one folder, as they do when a trial begins. Measured, not wanted."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from edgefleet_agent.install.verifier_protocol import Accepted
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing.service import SigningService
from tests.agent.child import ChildDriver
from tests.hostile.device.forge import DEVICE, MODEL, PROFILE
from tests.hostile.theft.device import bundle
from tests.server.fleet.house import House, TurnedClock

EVIL: Final = "6.6.6"
CLOSED_BY: Final = "keys of root, targets and releases that are not on the server"


def whole_key_folder() -> Mapping[str, Any]:
    """Sign a bundle and an order with a stolen key folder; say whether a device takes it, and what closes that."""
    with TemporaryDirectory(prefix="ef-theft-") as name:
        folder = Path(name)
        house = House(f"sqlite:///{folder / 'a.db'}", folder / "server", TurnedClock(SystemClock().now()))
        answer = _steal(house, folder)
        house.db.engine.dispose()
        return {"tried": "signs a bundle and an order", "answer": answer, "closed_by": CLOSED_BY}


def _steal(house: House, folder: Path) -> str:
    thief = SigningService(house.db, house.folder / "keys", house.clock)  # the folder is all that it has
    driver = ChildDriver(house, folder / "device", DEVICE)
    data = bundle(EVIL)
    try:
        house.release(f"{MODEL}@{EVIL}", bundles={PROFILE: data})
        envelope = thief.sign_desired(_order(house, data))
    except EdgefleetError as error:
        return error.code
    answer, desired = driver.verify(envelope)
    if not isinstance(answer, Accepted) or desired is None or not desired.wanted:
        return "refused"
    return "allowed"


def _order(house: House, data: bytes) -> bytes:
    import datetime as dt

    from edgefleet_protocol.desired import Desired, ModelDesired, Ref, encode_desired

    now = house.clock.now()
    ref = Ref(target=f"{MODEL}/{EVIL}/{PROFILE}.bundle", sha256=sha256_hex(data), length=len(data))
    until = now + dt.timedelta(days=7)
    models = {MODEL: ModelDesired(active=ref)}
    return encode_desired(Desired(device=DEVICE, gen=1, issued=now, expires=until, models=models))
